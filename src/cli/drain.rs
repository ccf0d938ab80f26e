//! `spillring drain`: serves a channel until it is told to stop.

use super::engine::{Begin, Engine, Plan, Summary, to_file};
use super::{DrainArgs, Exit, notify};
use spillring::env::Settings;
use spillring::sys::child;
use spillring::{Error, Result};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Runs it.
pub fn run(args: &DrainArgs, settings: &Settings) -> Result<Exit> {
    let (_, signals) = child::take_signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .map_err(|e| Error::os("blocking signals", e.into()))?;
    let dir = args.channel.dir(settings);
    let (ended, end) = channel();
    let plan = Plan {
        channel_dir: dir,
        sinks: args
            .output
            .iter()
            .map(|f| to_file(f, args.format.map_or(settings.format, Into::into)))
            .collect(),
        begin: Begin::WhereTheyStopped,
        patience: settings.flush_timeout,
        readers_may_pause: false,
    };
    let engine = Engine::start(settings, plan, move |done| {
        let _ = ended.send(done);
        // The other thread waits for signals: this is one.
        let _ = child::kill(std::process::id(), libc::SIGCHLD);
    })?;
    notify::tell("READY=1");
    let done: Result<Summary> = loop {
        let signal = child::wait(&signals, Duration::from_secs(3600));
        if let Ok(done) = end.try_recv() {
            break done;
        }
        match signal.map(|s| s.signal) {
            Some(libc::SIGTERM | libc::SIGINT) => {
                notify::tell("STOPPING=1");
                engine.stop();
            }
            Some(libc::SIGHUP) => engine.reopen(),
            _ => {}
        }
    };
    let pending: Vec<_> = done?.outcomes.into_iter().filter_map(|o| o.pending().cloned()).collect();
    for p in &pending {
        say!("{}", p.line(&args.channel.to_string()));
    }
    Ok(if pending.is_empty() { Exit::Done } else { Exit::SinkLags })
}
