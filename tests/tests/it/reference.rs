//! The protocol twice: as a pure model and as the scripts on a real Redis. The same commands go
//! through both, and after each all keys are compared. Then the proof of the proof: every line of
//! the scripts that matters is broken once, and the difference must be found.
//!
//! Every run draws new commands. A failure shows the shortest commands that lead to it, which make
//! a scenario to keep, and the seed: `UMBEL_REFERENCE_SEED=<seed>` draws the same ones again.

mod cancel;
mod dead;
mod hands;
mod lab;
mod log;
mod machine;
mod model;
mod mutants;
mod picture;
mod reading;
mod scenarios;
mod server;
mod settle;
mod trade;
mod words;

use std::sync::{Arc, atomic::Ordering};

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use proptest_state_machine::ReferenceStateMachine;
use umbel_broker::Scripts;

use self::{
    lab::Lab,
    machine::Machine,
    mutants::{FoundBy, Mutant},
};

/// How many cases there are, and how many commands a case has at most: seven seconds on an idle
/// machine, and nearly every broken line is found in the first few cases.
const CASES: u32 = 100;
const COMMANDS_MAX: usize = 60;

/// How many cases chance has to find a broken line in.
const MUTANT_CASES: u32 = 40;

/// How often a failing case is cut down.
const SHRINKS_MAX: u32 = 1_000;

#[test]
fn the_scripts_do_what_the_model_says() {
    let given = std::env::var("UMBEL_REFERENCE_SEED").ok();
    let seed = given.map_or_else(drawn, |seed| seed.parse().expect("a number"));
    println!("UMBEL_REFERENCE_SEED={seed}");
    let config = Config { cases: CASES, max_shrink_iters: SHRINKS_MAX, ..seeded(seed) };
    if let Err(difference) = search(&Lab::open(), None, config) {
        panic!("UMBEL_REFERENCE_SEED={seed} differs {difference}");
    }
}

#[test]
fn the_scripts_do_what_the_model_says_in_every_scenario() {
    let lab = Lab::open();
    for (name, scenario) in scenarios::ALL {
        let scenario = scenario();
        let played = lab.play(None, scenario.state(), &scenario.commands, || {});
        played.unwrap_or_else(|difference| panic!("{name} differs {difference}"));
    }
}

#[test]
fn every_broken_line_is_found() {
    let lab = Lab::open();
    let mut survivors = Vec::new();
    for mutant in mutants::ALL {
        match hunt(&lab, mutant) {
            Ok(()) => survivors.push(mutant.wrong),
            // What the server of the test cannot do must not pass for what the model says.
            Err(difference) => {
                assert!(difference.contains("model: "), "{}: {difference}", mutant.wrong)
            }
        }
    }
    assert!(survivors.is_empty(), "not found: {survivors:#?}");
}

fn hunt(lab: &Lab, mutant: &Mutant) -> Result<(), String> {
    let scripts = Scripts::broken(mutant.script, mutant.part, mutant.instead);
    match mutant.found_by {
        FoundBy::Chance(seed) => {
            // Found is enough; nobody reads the shortest way.
            let config = Config { cases: MUTANT_CASES, max_shrink_iters: 0, ..seeded(seed) };
            search(lab, Some(scripts), config)
        }
        FoundBy::Scenario(scenario) => {
            let scenario = scenario();
            lab.play(Some(scripts), scenario.state(), &scenario.commands, || {})
        }
    }
}

fn drawn() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// What was found is kept as a scenario, not as a file of seeds.
fn seeded(seed: u64) -> Config {
    Config { rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() }
}

/// Plays random commands; `Err` tells the first difference, and the shortest way to it.
fn search(lab: &Lab, scripts: Option<Arc<Scripts>>, config: Config) -> Result<(), String> {
    let commands = Machine::sequential_strategy(1..COMMANDS_MAX);
    let shrinks = config.max_shrink_iters > 0;
    let played = TestRunner::new(config).run(&commands, |(state, commands, seen)| {
        let count = || {
            // Those that were never played need not be cut off one by one.
            if let Some(seen) = seen.as_ref().filter(|_| shrinks) {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        };
        lab.play(scripts.clone(), state, &commands, count).map_err(TestCaseError::fail)
    });
    match played {
        Ok(()) => Ok(()),
        Err(TestError::Fail(difference, (state, commands, _))) => {
            let list: String =
                commands.iter().map(|command| format!("    {command:?},\n")).collect();
            let hidden = state.server.hides_run;
            Err(format!(
                "{difference}\nwith INFO refused: {hidden}, the shortest way there:\n{list}"
            ))
        }
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}
