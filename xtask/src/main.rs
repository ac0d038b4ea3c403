//! Project tasks, run as `cargo xtask TASK`: what developers and continuous integration do with this tree.

#![forbid(unsafe_code)]

mod bench;
mod fuzz;
mod step;
mod test;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// One task: a line in the help, and the function that does it with the arguments after its name.
struct Task {
    name: &'static str,
    arguments: &'static str,
    summary: &'static str,
    run: fn(&Path, &[String]) -> Result<()>,
}

const TASKS: &[Task] = &[
    Task {
        name: "test",
        arguments: "[--fast] [--verbose]",
        summary: "all that must hold: tools, format, clippy, docs, tests; --fast leaves out e2e",
        run: test::run,
    },
    Task {
        name: "bench",
        arguments: "[acme] [OPTIONS]",
        summary: "orders and OCSP requests per second of a release build, beside what this machine can do",
        run: bench::run,
    },
    Task {
        name: "fuzz",
        arguments: "[TARGET …] [OPTIONS]",
        summary: "the parsers of hostile input under libFuzzer, 60 s each",
        run: fuzz::run,
    },
    Task {
        name: "tools",
        arguments: "",
        summary: "install what the tests need: apt packages; Python and npm tools in ~/.cache/chancery-tools",
        run: tools::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", step::red("error:"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some(name) = arguments.first() else {
        print!("{}", help());
        bail!("no task named; try `cargo xtask test`");
    };
    if name == "help" || arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{}", help());
        return Ok(());
    }
    let task = TASKS
        .iter()
        .find(|task| task.name == name)
        .with_context(|| format!("there is no task `{name}`; `cargo xtask --help` lists them"))?;
    (task.run)(&workspace_root()?, &arguments[1..])
}

fn help() -> String {
    let mut text = String::from("Usage: cargo xtask TASK\n\nTasks:\n");
    for task in TASKS {
        let usage = format!("{} {}", task.name, task.arguments);
        text.push_str(&format!("  {usage:<27} {}\n", task.summary));
    }
    text.push_str(
        "\nExamples:\n  \
         cargo xtask test                what continuous integration runs\n  \
         cargo xtask test --fast         while you work: without the end-to-end tests\n  \
         cargo xtask test --verbose      with the output of every step as it comes\n  \
         cargo build -p chancery && cargo nextest run -p e2e\n                                  \
         the end-to-end tests alone\n  \
         cargo xtask bench --clients 1,8,32 --orders 400 --seconds 10 [--json]\n                                  \
         N orders by so many clients at once, at most 10 s each\n  \
         cargo xtask bench acme          orders alone, at more loads, against their own cryptography\n  \
         cargo xtask bench hostile       orders while others attack, and what memory that takes\n  \
         cargo xtask fuzz csr jws --seconds 600\n                                  \
         two of the targets, ten minutes each\n",
    );
    text
}

/// The directory of the workspace's Cargo.toml; tasks run there, wherever they were called.
fn workspace_root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("CARGO_MANIFEST_DIR is not set: run this as `cargo xtask`")?;
    let root = Path::new(&manifest).parent().context("the xtask crate has no parent directory")?;
    Ok(root.to_path_buf())
}
