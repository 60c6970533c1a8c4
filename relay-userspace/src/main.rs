//! The command `relay`: parse, dispatch, exit code.

use std::process::ExitCode;

use relay::{
    cli,
    cli::{inherited, logging},
};

fn main() -> ExitCode {
    inherited::put_right();
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
