//! The command line.

mod arguments;
mod completions;
mod external_accounts;
mod inventory;
mod lifecycle;
mod limits;
pub mod output;
mod renewal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

pub use arguments::Arguments;
use arguments::Command;
use output::Output;

use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::listen::sockets::Handed;

/// The program's command line as clap knows it, for completions and tests.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs one command line to its end.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) if json && !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let detail = error.kind().as_str().unwrap_or("wrong arguments").to_owned();
            let rendered = error.render().to_string();
            // The first paragraph: what is wrong may be listed below its first line.
            let lines: Vec<&str> =
                rendered.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            let said = if lines.is_empty() { detail } else { lines.join(" ") };
            let said = said.trim_start_matches("error: ");
            Output::new(true).failure(&Failure::new(Code::Usage, said, "see `chancery --help`"));
            return ExitCode::from(2);
        }
        Err(error) => {
            let code = error.exit_code();
            return match error.print() {
                // Help that nobody could read.
                Err(unwritten) if code == 0 && unwritten.kind() != std::io::ErrorKind::BrokenPipe => {
                    ExitCode::FAILURE
                }
                _ => ExitCode::from(u8::try_from(code).unwrap_or(2)),
            };
        }
    };
    let output = Output::new(parsed.json);
    match dispatch(parsed, &output).and_then(|()| output.written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code.exit_status())
        }
    }
}

fn dispatch(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    if let Command::Completions { shell } = arguments.command {
        completions::print(shell, output);
        return Ok(());
    }
    if let Command::Bench(command) = arguments.command {
        return crate::bench::run(command, &arguments.data, output);
    }
    let data = DataDir::new(&arguments.data)?;
    // Taken while this process has one thread: they are read from the environment.
    let handed = match arguments.command {
        Command::Up(_) | Command::Serve(_) => Handed::from_environment()?,
        _ => Handed::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| {
        Failure::new(
            Code::System,
            format!("can't start the runtime: {e}"),
            "check the limits on threads: ulimit -u",
        )
    })?;
    runtime.block_on(async {
        match arguments.command {
            Command::Up(up) => lifecycle::up(&data, up, handed, output).await,
            Command::Init(init) => lifecycle::init(&data, init, output).await,
            Command::Serve(serve) => lifecycle::serve(&data, serve, handed, output).await,
            Command::Doctor => crate::doctor::run(&data, output).await,
            Command::Completions { .. } | Command::Bench(_) => Ok(()),
            Command::Root(command) => inventory::roots(&data, command, output).await,
            Command::Issuer(command) => inventory::issuers(&data, command, output).await,
            Command::Certificate(command) => inventory::certificates(&data, command, output).await,
            Command::Account(command) => inventory::accounts(&data, command, output).await,
            Command::Order(command) => inventory::orders(&data, command, output).await,
            Command::Renewal(command) => renewal::run(&data, command, output).await,
            Command::Eab(command) => external_accounts::run(&data, command, output).await,
        }
    })
}
