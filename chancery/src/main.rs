//! The entry point: installs the TLS provider and hands the command line over.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Another crate in the tree may bring a second provider; then none is the default unless one is chosen.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider was installed before this program's own");
        return ExitCode::FAILURE;
    }
    chancery::cli::run(std::env::args_os())
}
