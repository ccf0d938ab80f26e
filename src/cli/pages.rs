//! What is made from the command line's own description: man pages, completions, and the service's unit.

use super::{CompletionsArgs, Exit, ManArgs, ServiceArgs};
use clap::Command;
use spillring::{Code, Error, Result};
use std::io::Write;

const UNIT: &str = include_str!("spillring@.service");

fn print(bytes: &[u8]) -> Result<Exit> {
    let mut out = std::io::stdout().lock();
    let done = out.write_all(bytes).and_then(|()| out.flush());
    done.map(|()| Exit::Done).map_err(|e| Error::os("writing to stdout", e))
}

/// Runs `man`.
pub fn man(args: &ManArgs, mut command: Command) -> Result<Exit> {
    if let Some(dir) = &args.dir {
        let failed = |e| Error::os(format!("writing man pages to {}", dir.display()), e);
        std::fs::create_dir_all(dir).map_err(failed)?;
        return clap_mangen::generate_to(command, dir).map(|()| Exit::Done).map_err(failed);
    }
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            let all: Vec<_> = command.get_subcommands().map(|c| c.get_name()).collect();
            Error::new(Code::BadValue, format!("there is no command {name:?}; there are: {}", all.join(", ")))
        })?,
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(|e| Error::os("making a man page", e))?;
    print(&text)
}

/// Runs `completions`.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<Exit> {
    // Into memory first: the generator takes a failed write for a reason to panic.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "spillring", &mut text);
    print(&text)
}

/// Runs `service`.
pub fn service(args: &ServiceArgs) -> Result<Exit> {
    let mut unit = UNIT.to_string();
    if let Some(cpu) = args.cpu {
        unit = unit.replace("CPUAffinity=0\n", &format!("CPUAffinity={cpu}\n"));
    }
    if let Ok(me) = std::env::current_exe() {
        unit = unit.replace("/usr/local/bin/spillring", &me.display().to_string());
    }
    print(unit.as_bytes())
}
