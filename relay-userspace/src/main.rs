//! The command `relay`: parse, dispatch, exit code.

use std::process::ExitCode;

use relay::cli;

fn main() -> ExitCode {
    let code = match cli::parse(std::env::args_os()) {
        Ok(command) => {
            cli::start_log();
            cli::report(command.run())
        }
        Err(code) => code,
    };
    ExitCode::from(code)
}
