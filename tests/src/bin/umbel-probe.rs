//! `umbel-probe`: the application that is harmed, with the whole command line of the framework.

use std::process::ExitCode;

fn main() -> ExitCode {
    umbel::run(umbel_tests::chaos::probe::application())
}
