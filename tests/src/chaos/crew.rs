//! The processes that run tasks, and what is done to them.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{faults::Fault, history::Moment};
use crate::{
    eventually::eventually,
    process::{Launch, Process, children, is_alive, send},
};

/// What a worker says when it is told that a task is not its own any more.
const REFUSED: &str = "refused: the task was given to another worker";

/// How the workers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Each alone; who dies is replaced here.
    Alone,
    /// Each under a supervisor of its own, which starts it again.
    Supervised,
}

/// Workers, each in a process of its own.
#[derive(Debug)]
pub struct Crew {
    launch: Launch,
    keeping: Keeping,
    processes: Vec<Process>,
    /// Settles that were refused to workers that are no more.
    refused: usize,
}

impl Crew {
    /// Starts so many workers by the launch, which names no role.
    pub fn start(launch: Launch, keeping: Keeping, count: usize) -> Self {
        let role = match keeping {
            Keeping::Alone => "worker",
            Keeping::Supervised => "up",
        };
        let mut crew =
            Self { launch: launch.arg(role), keeping, processes: Vec::new(), refused: 0 };
        for _ in 0..count {
            crew.hire();
        }
        crew
    }

    /// One worker more, the last.
    pub fn hire(&mut self) {
        self.processes.push(self.launch.start());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// The process that runs tasks, of each worker where it is there.
    pub fn pids(&self) -> Vec<Option<u32>> {
        self.processes.iter().map(|process| self.pid_of(process)).collect()
    }

    /// The processes that run tasks now.
    pub fn living(&self) -> Vec<u32> {
        self.pids().into_iter().flatten().collect()
    }

    fn pid_of(&self, process: &Process) -> Option<u32> {
        let pid = match self.keeping {
            Keeping::Alone => Some(process.pid()),
            Keeping::Supervised => process.role("worker"),
        };
        pid.filter(|pid| is_alive(*pid))
    }

    /// Waits for a worker's process to be there, and tells it.
    pub async fn pid(&self, place: usize) -> u32 {
        let process = &self.processes[place];
        eventually("the worker is there", async || self.pid_of(process)).await
    }

    /// Kills a worker as a crash does; another one takes its place.
    pub async fn kill(&mut self, place: usize) -> Fault {
        let pid = self.pid(place).await;
        let fault = Fault::kill(pid, Moment::now());
        send(pid, Signal::SIGKILL);
        if self.keeping == Keeping::Alone {
            let successor = self.launch.start();
            let mut process = std::mem::replace(&mut self.processes[place], successor);
            process.ended().await;
            self.refused += refused(&process);
        }
        fault
    }

    /// Sends a signal to a worker; the process that got it.
    pub async fn signal(&self, place: usize, signal: Signal) -> u32 {
        let pid = self.pid(place).await;
        send(pid, signal);
        pid
    }

    /// Asks the first worker to end and waits for it; whether it ended well.
    pub async fn retire_first(&mut self) -> bool {
        let mut process = self.processes.remove(0);
        process.signal(Signal::SIGTERM);
        let ended = process.ended().await;
        self.refused += refused(&process);
        ended.success()
    }

    /// Asks all to end at once and waits for them; how many did not end well.
    pub async fn stop(&mut self) -> usize {
        for process in &mut self.processes {
            if process.has_ended().is_none() {
                process.signal(Signal::SIGTERM);
            }
        }
        let mut badly = 0;
        for mut process in self.processes.drain(..) {
            badly += usize::from(!process.ended().await.success());
            self.refused += refused(&process);
        }
        badly
    }

    /// How many settles were refused in all.
    pub fn refused(&self) -> usize {
        self.refused + self.processes.iter().map(refused).sum::<usize>()
    }

    /// What all have logged so far.
    pub fn logs(&self) -> String {
        self.processes.iter().map(Process::log).collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let of = |process: &Process| children(process.pid());
        let roles: Vec<u32> = self.processes.iter().flat_map(of).collect();
        self.processes.clear();
        // A role whose supervisor was killed drains first, and Redis may be gone by then.
        for pid in roles.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
            // Most have ended with it.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn refused(process: &Process) -> usize {
    process.log().matches(REFUSED).count()
}
