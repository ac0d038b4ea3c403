//! Completion scripts.

use std::io::Write;

/// Prints the script that completes this command line in a shell.
pub(super) fn print(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "chancery", &mut script);
    // A reader that left wants no more of it.
    let _ = std::io::stdout().write_all(&script);
}
