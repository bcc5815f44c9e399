//! `umbel-bench-application`: the tasks that do nothing, with the whole command line of the framework.
//! Apart from the benchmark, whose own worker is measured without all of that.

use std::process::ExitCode;

fn main() -> ExitCode {
    umbel::run(umbel_bench::application())
}
