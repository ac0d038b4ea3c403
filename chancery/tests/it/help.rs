//! The command line explains itself.

use chancery::cli::command;
use clap::Command;

use crate::harness::{binary, text};

fn each(command: &Command, path: &str, check: &mut impl FnMut(&str, &Command)) {
    check(path, command);
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        each(inner, &format!("{path} {}", inner.get_name()), check);
    }
}

#[test]
fn every_command_says_what_it_does_and_gives_examples() {
    let mut seen = 0;
    each(&command(), "chancery", &mut |path, command| {
        seen += 1;
        assert!(command.get_about().is_some(), "{path} says nothing of itself");
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples.starts_with("Examples:\n  chancery"), "{path} has no examples: {examples}");
    });
    assert!(seen > 20, "{seen}");
}

#[test]
fn every_example_is_a_command_line_that_the_program_takes() {
    let mut commands = Vec::new();
    each(&command(), "chancery", &mut |_, command| {
        let examples =
            command.get_after_help().map(ToString::to_string).unwrap_or_default().replace("\\\n", " ");
        commands.extend(
            examples.lines().skip(1).filter_map(|line| Some(line.get(line.find("chancery")?..)?.to_owned())),
        );
    });
    for line in commands {
        // Redirections and comments are the shell's.
        let line = line.split(" > ").next().unwrap().split(" #").next().unwrap();
        let words = shell_words(line);
        command().try_get_matches_from(&words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
    }
}

/// Words as a shell splits them, with single quotes.
fn shell_words(line: &str) -> Vec<String> {
    let quoted = line.split('\'').enumerate();
    quoted
        .flat_map(|(index, part)| {
            if index % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect()
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = binary().args(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("certificate"), "{shell}");
    }
}

#[test]
fn a_wrong_option_is_an_error_in_json_too() {
    let output = binary().args(["certificate", "list", "--nmae", "x", "--json"]).output().unwrap();
    let error = crate::harness::error_of(&output);
    assert_eq!(error["code"], "usage");
    assert!(error["detail"].as_str().unwrap().contains("--nmae"), "{error}");
}
