//! The binary `umbel`: the scraper, with the whole command line of the framework.

use std::process::ExitCode;

fn main() -> ExitCode {
    umbel::run(umbel_tasks::application())
}
