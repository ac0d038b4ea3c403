//! Completion scripts.

use super::output::Output;

/// Prints the script that completes this command line in a shell.
pub(super) fn print(shell: clap_complete::Shell, output: &Output) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "chancery", &mut script);
    output.raw(&String::from_utf8_lossy(&script));
}
