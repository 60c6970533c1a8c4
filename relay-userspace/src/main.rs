//! The command `relay`: parse, dispatch, exit code.

use std::process::ExitCode;

use relay::{cli, cli::logging};

fn main() -> ExitCode {
    let code = match cli::parse(std::env::args_os()) {
        Ok(command) => {
            let code = cli::report(command.start_log().and_then(|()| command.run()));
            logging::finish();
            code
        }
        Err(code) => code,
    };
    ExitCode::from(code)
}
