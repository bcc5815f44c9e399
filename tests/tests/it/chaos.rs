//! What is promised holds while processes are harmed: each scenario in its small size. `scripts/chaos`
//! plays them in full, and one of them again by its seed.

use umbel_tests::chaos::scenarios::{Plan, Profile, Scenario};

async fn play(name: &str) {
    let plan = Plan { profile: Profile::Smoke, seed: rand::random() };
    let report = Scenario::named(name).unwrap().play(plan).await;
    assert!(
        report.is_met(),
        "{name} with the seed {seed} (again: scripts/chaos --only {name} --seed {seed}):\n{misses}",
        seed = plan.seed,
        misses = report.misses(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_lose_no_task_and_none_ends_twice() {
    play("C1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_supervisor_the_tasks_of_a_killed_worker_run_again_at_once() {
    play("C1s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_frozen_shortly_keeps_its_tasks_and_one_thought_dead_is_refused() {
    play("C2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_task_of_many_leases_is_started_once_whatever_the_clock_of_redis_says() {
    play("C3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_loses_nothing_and_work_goes_on_when_it_is_back() {
    play("C4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_loses_nothing_and_doubles_nothing() {
    play("C7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_writes_stops_nobody_and_running_work_is_settled_when_it_is_full() {
    play("C8").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wipes_out_is_told_exactly_and_the_rest_goes_on() {
    play("C9").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_end_their_process_are_buried_and_their_neighbours_are_not() {
    play("C10").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_runs_no_task_twice_and_spends_no_attempt() {
    play("C12").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_or_freezes_loses_no_effect_and_doubles_none() {
    play("C13").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_commit_and_word_has_its_effect_once() {
    play("C13s").await;
}
