//! Reads what a command prints, cuts it into records, and never waits for whoever wants to see it.

use spillring::sys::child::{Polled, poll};
use std::io::{BufRead, PipeReader, Read};
use std::os::fd::{AsRawFd, RawFd};

/// Bytes of one read at most: what is lost when run is killed between a read and its record.
pub const READ: usize = 64 << 10;

/// What the command wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its stdout.
    Out,
    /// Its stderr.
    Err,
}

/// Cuts `bytes` into lines, each with its newline, and an unfinished rest; no part is longer than `most`.
pub fn lines(bytes: &[u8], most: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let mut line = &rest[..rest.len().min(most)];
        // A search for a byte at memchr's speed; reading a slice can't fail.
        let n = line.skip_until(b'\n').unwrap_or(0);
        let (part, behind) = rest.split_at(n);
        rest = behind;
        (n > 0).then_some(part)
    })
}

/// One of the two pipes.
#[derive(Debug)]
pub struct Source {
    /// What comes out of it.
    pub stream: Stream,
    /// The end that is read.
    pub pipe: PipeReader,
    /// Our own descriptor that this stream goes to in the end, if its reader may go away: then the command
    /// is to meet a closed pipe too.
    pub reader: Option<RawFd>,
}

/// Reads the pipes until all are closed on their other end, or until `stop` is (its writer is dropped).
/// Each line, and each rest of a read without a newline, is given to `take`, at once.
pub fn capture(
    mut sources: Vec<Source>,
    stop: &PipeReader,
    most: usize,
    mut take: impl FnMut(Stream, &[u8]),
) -> spillring::Result<()> {
    let failed = |e| spillring::Error::os("reading what the command prints", e);
    let mut buf = vec![0; READ];
    let mut stopped = false;
    while !sources.is_empty() {
        let mut polled: Vec<Polled> = sources.iter().map(|s| Polled::reading(s.pipe.as_raw_fd())).collect();
        polled.extend(sources.iter().map(|s| Polled::reader_of(s.reader.unwrap_or(-1))));
        polled.push(Polled::reading(stop.as_raw_fd()));
        // When it is to stop, what is in the pipes already is still taken, and nothing waited for.
        let timeout = stopped.then_some(std::time::Duration::ZERO);
        poll(&mut polled, timeout).map_err(|e| failed(e.into()))?;
        let n = sources.len();
        let mut done = vec![false; n];
        let mut read_any = false;
        for (i, source) in sources.iter_mut().enumerate() {
            if polled[n + i].broken {
                done[i] = true;
            } else if polled[i].readable {
                match source.pipe.read(&mut buf) {
                    Ok(0) => done[i] = true,
                    Ok(len) => {
                        read_any = true;
                        lines(&buf[..len], most).for_each(|part| take(source.stream, part));
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        if stopped && !read_any {
            return Ok(());
        }
        stopped |= polled[2 * n].readable;
        let mut done = done.into_iter();
        // Dropped here, a pipe is closed.
        sources.retain(|_| !done.next().unwrap_or(false));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Write, pipe};

    fn cut(bytes: &[u8], most: usize) -> Vec<String> {
        lines(bytes, most).map(|p| String::from_utf8_lossy(p).into_owned()).collect()
    }

    #[test]
    fn lines_keep_their_newline_and_rests_come_at_once() {
        assert_eq!(cut(b"", 9), Vec::<String>::new());
        assert_eq!(cut(b"a\nbc\n", 9), ["a\n", "bc\n"]);
        assert_eq!(cut(b"\n\n$ ", 9), ["\n", "\n", "$ "]);
        assert_eq!(cut(b"0123456789\nx", 4), ["0123", "4567", "89\n", "x"]);
        assert_eq!(cut(b"0123\n", 4), ["0123", "\n"]);
    }

    #[test]
    fn nothing_is_lost_or_changed_by_cutting() {
        let text: Vec<u8> = (0..100_000u32).map(|i| if i % 7 == i % 31 { b'\n' } else { i as u8 }).collect();
        for most in [1, 2, 13, 65_536] {
            let joined: Vec<u8> = lines(&text, most).flatten().copied().collect();
            assert!(joined == text, "{most}");
            assert!(lines(&text, most).all(|p| p.len() <= most && !p[..p.len() - 1].contains(&b'\n')));
        }
    }

    fn source(stream: Stream, pipe: PipeReader) -> Source {
        Source { stream, pipe, reader: None }
    }

    #[test]
    fn both_pipes_are_read_to_their_end() {
        let ((r1, mut w1), (r2, mut w2), (stop, _hold)) = (pipe().unwrap(), pipe().unwrap(), pipe().unwrap());
        let writers = std::thread::spawn(move || {
            for i in 0..10_000 {
                writeln!(w1, "out {i}").unwrap();
                writeln!(w2, "err {i}").unwrap();
            }
            write!(w1, "no newline").unwrap();
        });
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let sources = vec![source(Stream::Out, r1), source(Stream::Err, r2)];
        capture(sources, &stop, READ, |s, b| match s {
            Stream::Out => out.extend_from_slice(b),
            Stream::Err => err.extend_from_slice(b),
        })
        .unwrap();
        writers.join().unwrap();
        let expected = |name: &str| (0..10_000).map(|i| format!("{name} {i}\n")).collect::<String>();
        assert!(out == (expected("out") + "no newline").into_bytes());
        assert!(err == expected("err").into_bytes());
    }

    #[test]
    fn stopped_it_takes_what_is_there_and_waits_for_no_more() {
        let ((r, mut w), (stop, hold)) = (pipe().unwrap(), pipe().unwrap());
        w.write_all(b"there\n").unwrap();
        drop(hold);
        let mut got = Vec::new();
        capture(vec![source(Stream::Out, r)], &stop, READ, |_, b| got.extend_from_slice(b)).unwrap();
        assert_eq!(got, b"there\n");
        // The writer lives on, and finds its pipe closed.
        assert!(w.write_all(b"late").is_err());
    }

    #[test]
    fn when_our_reader_goes_the_command_finds_its_pipe_closed() {
        let ((r, mut w), (stop, _hold)) = (pipe().unwrap(), pipe().unwrap());
        let (our_reader, ours) = pipe().unwrap();
        drop(our_reader);
        let s = Source { stream: Stream::Out, pipe: r, reader: Some(ours.as_raw_fd()) };
        capture(vec![s], &stop, READ, |_, _| {}).unwrap();
        assert!(w.write_all(b"y\n").is_err());
    }
}
