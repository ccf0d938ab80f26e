//! The writer in real processes: attach, lanes, slow path, fork. The reading side here is the snapshot
//! over the files of the channel, without a drain process.
#![allow(unsafe_code)]

use spillring::channel::{Channel, Role};

mod common;
use common::{Scratch, read_all};

fn settings(dir: &Scratch) -> spillring::env::Settings {
    let mut s = spillring::env::Settings::from(|_| None, 0).0;
    s.dir = dir.path().to_path_buf();
    s.channel = "t".into();
    s
}

/// Runs `f` in a forked child with its own ring and answers what is in the channel afterwards.
fn in_child(dir: &Scratch, f: impl FnOnce(&spillring::env::Settings)) -> i32 {
    let s = settings(dir);
    // SAFETY: the tests of this file run one at a time in processes of their own making; the child only
    // runs `f` and leaves without unwinding.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&s)));
            libc::_exit(i32::from(r.is_err()));
        }
        let mut st = 0;
        libc::waitpid(pid, &mut st, 0);
        st
    }
}

#[test]
fn a_killed_process_leaves_its_records() {
    let dir = Scratch::new();
    let st = in_child(&dir, |s| {
        let _guard = spillring::init_with(s).unwrap();
        for i in 0..1000u32 {
            spillring::info!("record {} of {}", i, "child");
        }
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    assert_eq!(st, libc::SIGKILL);
    let channel = Channel::create_or_open(&dir.path().join("t"), false, Role::Drain).unwrap();
    let all = read_all(&channel);
    assert_eq!(all.len(), 1000);
    for (i, r) in all.iter().enumerate() {
        assert_eq!(r.text, format!("record {i} of child"));
    }
}
