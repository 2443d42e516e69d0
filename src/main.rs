//! The `ringmaster` program; everything lives in the library.

fn main() -> std::process::ExitCode {
    ringmaster::cli::main()
}
