//! The binary `umbel`: the scraper, with the whole command line of the framework.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    umbel::run(umbel_tasks::application())
}
