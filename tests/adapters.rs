//! The adapters: what is logged through the `log` crate and `tracing`, found in a journal; and a service that
//! is killed under load.
#![cfg(feature = "cli")]
#![allow(unsafe_code)]

mod common;
mod service;

use common::{Found, Scratch, fork_and, journal_records, settings};
use spillring::drain::{Drain, DrainConfig};
use spillring::env::Settings;
use spillring::site::{Filter, MAX_TEXT, set_filter};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tracing::Instrument;

fn drained(s: &Settings) -> Vec<Found> {
    let mut d = Drain::open(DrainConfig::new(s, s.channel_dir()).0).unwrap();
    d.finish(&mut |l: &str| eprintln!("{l}")).unwrap();
    journal_records(s)
}

/// Runs `f` in a process of its own that logs to the channel of `s` and is killed at its end.
fn killed(s: &Settings, f: impl FnOnce()) -> Vec<Found> {
    let child = fork_and(|| {
        let _log = spillring::init_with(s).unwrap();
        f();
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    assert_eq!(child.wait(), libc::SIGKILL);
    drained(s)
}

fn filter(f: &str) {
    set_filter(&f.parse::<Filter>().unwrap());
}

/// `text fields`, and the spans before it.
fn shown(r: &Found) -> String {
    format!("{}{}{}", r.spans.iter().map(|s| format!("{s}: ")).collect::<String>(), r.text, r.fields)
}

struct Logs(&'static str);
impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        log::info!("shown {}", self.0);
        tracing::info!("shown {}", self.0);
        f.write_str(self.0)
    }
}
impl fmt::Display for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[test]
fn the_log_crate_with_its_key_values() {
    let dir = Scratch::new();
    let all = killed(&settings(&dir), || {
        spillring::adapter::log::install().unwrap();
        let e = spillring::adapter::log::install().unwrap_err();
        assert!(e.to_string().contains("logger already"), "{e}");
        log::info!("plain");
        log::warn!(target: "orders", user = 7, ok = true, ratio = 0.5, name = "two words", c = 'x'; "order {}", 7);
        log::info!(path:% = std::path::Path::new("/a").display(), list:? = [1, 2], big = u128::MAX; "values");
        log::info!(a:? = Logs("a value"); "{} that logs", Logs("one"));
        log::error!("{}", "é".repeat(9000));
        let long = "k".repeat(5000);
        log::info!(long:% = long; "long");
        // What the filter says, also when it says something else later.
        log::debug!("no");
        assert_eq!(log::max_level(), log::LevelFilter::Info);
        filter("error,orders=debug");
        assert!(log::log_enabled!(target: "orders::x", log::Level::Debug));
        log::debug!(target: "orders", "yes");
        log::info!("no");
        filter("off");
        log::error!("no");
        filter("info");
        for i in 0..3 {
            log::info!("same place {i}");
        }
        // As many places as nobody has: targets made at run time.
        for i in 0..5000 {
            log::info!(target: &format!("made::{i}"), n = i; "many");
        }
    });
    let texts: Vec<_> = all.iter().map(shown).collect();
    let long = format!("{} ({} bytes cut)", "k".repeat(MAX_TEXT), 5000 - MAX_TEXT);
    let cut = format!("{} (1616 bytes cut)", "é".repeat(8192));
    assert_eq!(
        texts[..14],
        [
            "plain",
            "order 7 user=7 ok=true ratio=0.5 name=\"two words\" c=x",
            &format!("values path=/a list=\"[1, 2]\" big={}", u128::MAX),
            "shown one",
            "shown a value",
            "one that logs a=\"a value\"",
            &cut,
            &format!("long long=\"{long}\""),
            "yes",
            "same place 0",
            "same place 1",
            "same place 2",
            "many n=0",
            "many n=1",
        ]
    );
    assert_eq!(all[1].target, "orders");
    assert_eq!((all[0].target.as_str(), all[0].file.as_str()), (module_path!(), file!()));
    assert!(all[0].line > 0 && all[9].line == all[10].line);
    let many: Vec<_> = all.iter().filter(|r| r.text == "many").collect();
    assert_eq!(many.len(), 5000);
    for (i, r) in many.iter().enumerate() {
        assert_eq!((r.target.clone(), r.fields.clone()), (format!("made::{i}"), format!(" n={i}")));
    }
}

#[test]
fn tracing_events_carry_their_spans_with_current_fields() {
    let dir = Scratch::new();
    let all = killed(&settings(&dir), || {
        spillring::adapter::tracing::install().unwrap();
        let e = spillring::adapter::tracing::install().unwrap_err();
        assert!(e.to_string().contains("layer()"), "{e}");
        tracing::info!("plain");
        let outer = tracing::info_span!("outer", id = 7, status = tracing::field::Empty, r#type = "t");
        let _in_outer = outer.enter();
        {
            let inner = tracing::warn_span!("inner", path = %"/a b");
            let _in_inner = inner.enter();
            tracing::warn!(target: "orders", user = ?Some(1), ok = true, big = u128::MAX, "order {}", 7);
            outer.record("status", 200);
            tracing::info!("later");
            outer.record("status", "changed");
            outer.record("id", -1);
            tracing::info!(n = 1.5, "again");
            let root = tracing::info_span!(parent: None, "root");
            tracing::info!(parent: &root, "elsewhere");
        }
        tracing::info!(only = "fields");
        tracing::info!(error = &std::io::Error::other("torn") as &dyn std::error::Error, "failed");
        // A value that logs when it is shown, in an event, a span, and a field recorded later.
        tracing::info!(a = ?Logs("x"), "event");
        let late = tracing::info_span!("late", a = ?Logs("y"), b = tracing::field::Empty);
        late.record("b", tracing::field::debug(Logs("z")));
        // The filter, for spans and events, and what changes it.
        let debug = || tracing::debug!("debug");
        debug();
        filter("info,adapters=debug");
        debug();
        let off = || tracing::info_span!(target: "noise", "off").in_scope(|| tracing::info!("without noise"));
        filter("info,noise=off");
        off();
        filter("info");
        off();
        debug();
    });
    let texts: Vec<_> = all.iter().map(shown).collect();
    let o = "outer{ id=7 type=t}: ";
    let again = "outer{ id=-1 type=t status=changed}: ";
    let i = "inner{ path=\"/a b\"}: ";
    assert_eq!(
        texts,
        [
            "plain".to_string(),
            format!("{o}{i}order 7 user=Some(1) ok=true big={}", u128::MAX),
            format!("outer{{ id=7 type=t status=200}}: {i}later"),
            format!("{again}{i}again n=1.5"),
            "root{}: elsewhere".to_string(),
            format!("{again} only=fields"),
            format!("{again}failed error=torn"),
            format!("{again}shown x"),
            format!("{again}event a=x"),
            format!("{again}shown y"),
            format!("{again}shown z"),
            format!("{again}debug"),
            format!("{again}without noise"),
            format!("{again}off{{}}: without noise"),
        ]
    );
    assert_eq!((all[1].target.as_str(), all[1].level), ("orders", 4));
    assert_eq!(all[1].span_ids[0], all[3].span_ids[0]);
    assert_ne!(all[1].span_ids[0], all[1].span_ids[1]);
}

#[test]
fn spans_that_cross_threads_stay_with_their_task() {
    const TASKS: u64 = 64;
    const STEPS: u64 = 40;
    let dir = Scratch::new();
    let all = killed(&settings(&dir), || {
        spillring::adapter::tracing::install().unwrap();
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        rt.block_on(async {
            let tasks: Vec<_> = (0..TASKS)
                .map(|id| {
                    let span = tracing::info_span!("task", id, step = tracing::field::Empty);
                    tokio::spawn(
                        async move {
                            for step in 0..STEPS {
                                tracing::Span::current().record("step", step);
                                let inner = tracing::info_span!("inner", step);
                                async {
                                    tokio::task::yield_now().await;
                                    let thread = format!("{:?}", std::thread::current().id());
                                    tracing::info!(id, step, thread, "step");
                                    tokio::task::yield_now().await;
                                }
                                .instrument(inner)
                                .await;
                            }
                        }
                        .instrument(span),
                    )
                })
                .collect();
            for t in tasks {
                t.await.unwrap();
            }
        });
    });
    assert_eq!(all.len() as u64, TASKS * STEPS);
    let mut threads: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut ids: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for r in &all {
        let words: Vec<_> = r.fields.split(' ').collect();
        let [_, id, step, thread] = words[..] else { panic!("{r:?}") };
        assert_eq!(r.spans, [format!("task{{ {id} {step}}}"), format!("inner{{ {step}}}")], "{r:?}");
        threads.entry(id.into()).or_default().insert(thread.into());
        ids.entry(id.into()).or_default().insert(r.span_ids[0]);
    }
    assert!(ids.values().all(|i| i.len() == 1), "a task's span has one id");
    let crossed = threads.values().filter(|t| t.len() > 1).count();
    println!("{crossed} of {TASKS} tasks ran on more than one thread");
    assert!(crossed > 0, "nothing crossed a thread: this shows nothing");
}

// ---- the service

const SERVICE: &str = "SPILLRING_TEST_SERVICE";

/// Not a test: what the test below starts.
#[test]
fn service_itself() {
    if std::env::var_os(SERVICE).is_some() {
        service::main().unwrap();
    }
}

/// A child that is killed when the test is over.
struct Running(std::process::Child);
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One request after the other on one connection, until the service dies; answers those acknowledged.
fn client(port: u16, from: u64, count: impl Fn()) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return acknowledged };
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for id in from.. {
        let request = format!("GET /order/{id} HTTP/1.1\r\nHost: x\r\n\r\n");
        if stream.write_all(request.as_bytes()).is_err() {
            break;
        }
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            match reader.read_line(&mut line) {
                Ok(n) if n > 0 => {}
                _ => return acknowledged,
            }
            if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            break;
        }
        assert_eq!(String::from_utf8_lossy(&body), format!("ok {id}"));
        acknowledged.push(id);
        count();
    }
    acknowledged
}

#[test]
fn a_service_killed_under_load_has_logged_every_acknowledged_request() {
    use spillring::sync::{AtomicU32, Ordering::Relaxed};
    const CLIENTS: u64 = 8;
    const EACH: u64 = 1 << 32;
    const KILL_AT: u32 = 20_000;
    let dir = Scratch::new();
    let s = settings(&dir);
    let journal = s.journal_dir.as_ref().unwrap();
    let environment = |c: &mut Command| {
        c.env("SPILLRING_DIR", &s.dir).env("SPILLRING_JOURNAL_DIR", journal).env("SPILLRING_CHANNEL", "t");
        c.stdin(Stdio::null());
    };
    let mut c = Command::new(env!("CARGO_BIN_EXE_spillring"));
    environment(c.args(["drain", "t"]).stdout(Stdio::null()));
    let drain = Running(c.spawn().unwrap());
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(["service_itself", "--exact", "--nocapture"])
        .env(SERVICE, "1")
        .env("SPILLRING_LEVEL", "info,adapters=debug");
    environment(c.stdout(Stdio::piped()));
    let mut service = Running(c.spawn().unwrap());
    let stdout = BufReader::new(service.0.stdout.take().unwrap());
    let port = stdout.lines().find_map(|l| l.unwrap().strip_prefix("listening ")?.parse().ok());
    let port: u16 = port.expect("the service does not listen");

    let acks = AtomicU32::new(0);
    let begun = Instant::now();
    let acknowledged: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                scope.spawn({
                    let acks = &acks;
                    move || {
                        client(port, n * EACH, || {
                            acks.fetch_add(1, Relaxed);
                        })
                    }
                })
            })
            .collect();
        while acks.load(Relaxed) < KILL_AT {
            assert!(begun.elapsed() < Duration::from_secs(60) && !clients.iter().all(|c| c.is_finished()));
            std::thread::sleep(Duration::from_millis(1));
        }
        service.0.kill().unwrap();
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    });
    service.0.wait().unwrap();
    let took = begun.elapsed();
    // The drain, too: what it left is the next one's.
    drop(drain);
    let all = drained(&s);

    let mut records: BTreeMap<(&str, u64), Vec<&Found>> = BTreeMap::new();
    for r in &all {
        let id = r
            .spans
            .first()
            .and_then(|s| s.strip_prefix("request{ id=")?.split([' ', '}']).next()?.parse().ok());
        let order = r.fields.strip_prefix(" order=").and_then(|f| f.parse().ok());
        let id = id.or(order).unwrap_or_else(|| panic!("{r:?}"));
        records.entry((r.text.split(' ').next().unwrap(), id)).or_default().push(r);
    }
    for id in acknowledged.iter().flatten() {
        for what in ["accepted", "stored", "done"] {
            let found = records.get(&(what, *id)).map_or(0, Vec::len);
            assert_eq!(found, 1, "request {id} was acknowledged; {what} is there {found} times");
        }
        assert_eq!(records[&("accepted", *id)][0].fields, " route=/order");
        assert_eq!(records[&("done", *id)][0].spans, [format!("request{{ id={id} status=200}}")]);
    }
    // Nothing twice, and of what was not acknowledged at most one request a client.
    assert!(records.values().all(|r| r.len() == 1));
    let n: usize = acknowledged.iter().map(Vec::len).sum();
    let begun = records.keys().filter(|k| k.0 == "accepted").count();
    println!(
        "{n} requests acknowledged in {took:.1?} by {CLIENTS} clients, then SIGKILL: all found; {begun} begun, {} records",
        all.len()
    );
    assert!(n as u32 >= KILL_AT && begun >= n && begun <= n + CLIENTS as usize);
}
