//! One seed, from its beginning to a verdict: faults, then healing, then the last questions. And shrinking a failure.
//!
//! Must hold: safety is judged all the time; progress only after faults have ended, within a bound of virtual time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::check::digest;
use crate::event::HostId;
use crate::profile::{KINDS, Kind, Off, Profile};
use crate::time::{MILLI, Nanos, SECOND};
use crate::world::{Class, Failure, World};

/// After faults end, the cluster must be whole within this much virtual time: elections take 1–2 s, a write that is
/// given up 7 s, a membership change that nobody heard of 10 s, and replacing a member takes two of them.
const RECOVERY: Nanos = 90 * SECOND;
/// Clients go on for this long after faults end.
const AFTERMATH: Nanos = 6 * SECOND;

/// What one seed came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What was turned off.
    pub off: Off,
    /// What went wrong, if anything.
    pub failure: Option<Failure>,
    /// Virtual time that passed.
    pub simulated: Nanos,
    /// Faults by kind.
    pub counts: [u64; KINDS.len()],
    /// Client operations begun.
    pub operations: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// The hash of everything that happened.
    pub trace_hash: u64,
    /// The lines, when a trace was wanted.
    pub trace: Vec<String>,
    /// Events handled.
    pub steps: u64,
}

thread_local! {
    /// Where the last panic of this thread was.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of the product are findings, not noise on the terminal.
pub fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
            let text = info.payload_as_str().unwrap_or("a panic without text").to_owned();
            PANIC.with(|last| *last.borrow_mut() = Some(format!("{place}: {text}")));
        }));
    });
}

/// Runs one seed. Call [`catch_panics`] once before.
#[must_use]
pub fn run(seed: u64, off: Off, traced: bool) -> Outcome {
    judge(World::new(seed, Profile::draw(seed, off), traced), off)
}

/// Plays a world to its end.
fn judge(mut world: World, off: Off) -> Outcome {
    let result = panic::catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    if result.is_err() {
        let what = PANIC.with(|last| last.borrow_mut().take()).unwrap_or_default();
        world.failure = None;
        world.fail(Class::Crash, format!("panic at {what}"));
    }
    Outcome {
        seed: world.seed,
        off,
        failure: world.failure.take(),
        simulated: world.now,
        counts: world.counts,
        operations: world.checks.operations,
        acknowledged: world.checks.acknowledged,
        trace_hash: world.trace_hash(),
        trace: world.trace.take().unwrap_or_default(),
        steps: world.steps,
    }
}

fn play(world: &mut World) {
    world.run_until(world.profile.faulty);
    world.heal();
    let healed = world.now;
    world.run_until(healed + AFTERMATH);
    let deadline = healed + RECOVERY;
    let mut missing = None;
    while world.failure.is_none() {
        world.quiet = world.clients.iter().all(|client| client.healed_writes > 0);
        missing = world.missing();
        if missing.is_none() || world.now >= deadline {
            break;
        }
        world.run_until(world.now + 200 * MILLI);
    }
    if let Some(missing) = missing {
        world.note_standings();
        world.fail(Class::Liveness, format!("{} s after faults ended: {missing}", RECOVERY / SECOND));
    }
    if world.failure.is_none() {
        world.last_questions();
    }
}

impl World {
    /// Tells the trace how everybody stands.
    fn note_standings(&mut self) {
        for host in 0..self.hosts.len() {
            let told = self.hosts[host].process.as_ref().map(|process| {
                let node = &process.node;
                let standing = node.standing(self.hosts[host].id);
                let forgot = node.may_have_forgotten();
                format!("{standing:?} (may have forgotten: {forgot}) {:?}", node.raft_status())
            });
            let gone = self.trouble[host].gone;
            self.note(host as HostId, format_args!("stands at {told:?} (gone: {gone})"));
        }
    }

    /// What keeps the cluster from being whole and idle.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        if let Some(client) = self.clients.iter().position(|client| client.healed_writes == 0) {
            return Some(format!("client {client} has not written anything"));
        }
        if let Some(client) = self.clients.iter().position(|client| !client.is_idle()) {
            return Some(format!("client {client} waits"));
        }
        if !self.operator.is_idle() {
            return Some("the operator waits".to_owned());
        }
        let mut heads = Vec::new();
        let mut index = None;
        for (at, host) in self.hosts.iter().enumerate() {
            if self.trouble[at].gone {
                continue;
            }
            let Some(process) = &host.process else { return Some(format!("host {at} does not run")) };
            if !process.published {
                return Some(format!("host {at} has not caught up"));
            }
            if process.node.may_have_forgotten() {
                return Some(format!("host {at} may not vote"));
            }
            if process.node.is_learner() {
                let leader = self.leader().and_then(|leader| self.hosts[usize::from(leader)].process.as_ref());
                let status = leader.map(|leader| leader.node.raft_status());
                return Some(format!("host {at} has no vote yet: {status:?}"));
            }
            heads.push(process.node.applied());
            index = Some(process.node.store().index().get());
            if process.node.committed() != process.node.applied() {
                return Some(format!("host {at} applies"));
            }
        }
        if heads.iter().any(|head| *head != heads[0]) {
            return Some(format!("hosts stand at {heads:?}"));
        }
        if self.leader().is_none() {
            return Some("nobody leads".to_owned());
        }
        let waits = |watcher: &crate::watcher::Watcher| watcher.is_parked();
        if !self.watchers.iter().all(waits) {
            return Some("a watcher is not parked".to_owned());
        }
        index.is_none().then(|| "no host is left".to_owned())
    }

    /// What can only be asked at the end.
    fn last_questions(&mut self) {
        for number in 0..self.watchers.len() {
            let index = self.watchers[number]
                .parked_at()
                .and_then(|host| self.hosts[usize::from(host)].process.as_ref())
                .map_or(0, |process| process.node.store().index().get());
            self.watchers[number].owed_upto(index);
        }
        let broken = self
            .watchers
            .iter()
            .flat_map(|watcher| watcher.stretches())
            .find_map(|stretch| stretch.check(&self.checks.facts).err());
        if let Some(what) = broken {
            self.fail(Class::Correctness, what);
        }
        let linear = self.checks.histories.check();
        self.judge(linear);
        for at in 0..self.hosts.len() {
            let Some(process) = self.hosts[at].process.as_ref().filter(|_| !self.trouble[at].gone) else { continue };
            for prefix in ["/k", "/q"] {
                let mut found = BTreeMap::new();
                if let Ok(directory) = process.node.store().get(prefix.as_bytes()) {
                    for node in directory.children() {
                        let value = digest(&[node.value().unwrap_or_default()]);
                        found.insert(node.key().to_vec(), (node.modified().get(), value));
                    }
                }
                let prefix = format!("{prefix}/");
                let verdict = self.checks.facts.compare(prefix.as_bytes(), &found);
                let verdict = verdict.map_err(|what| format!("host {at}: {what}"));
                if let Err(what) = verdict {
                    self.fail(Class::Correctness, what);
                    return;
                }
            }
        }
    }
}

/// Turns kinds of faults off, one by one, as long as the run fails in the same way.
#[must_use]
pub fn shrink(seed: u64, class: Class, off: Off) -> Outcome {
    let mut best = off;
    for kind in KINDS {
        let tried = best | 1 << kind.place();
        if tried == best {
            continue;
        }
        let outcome = run(seed, tried, false);
        if outcome.failure.is_some_and(|failure| failure.class == class) {
            best = tried;
        }
    }
    run(seed, best, true)
}

/// The names of the kinds that are off.
#[must_use]
pub fn names(off: Off) -> String {
    let names: Vec<&str> =
        KINDS.iter().filter(|kind| off & (1 << kind.place()) != 0).map(|kind: &Kind| kind.name()).collect();
    names.join(",")
}

/// The process' exit code, by the classes of what failed; the worst one wins.
#[must_use]
pub fn exit_code(failed: &[Class]) -> u8 {
    let code = |class: &Class| match class {
        Class::Correctness => 1,
        Class::Crash => 3,
        Class::Liveness => 2,
    };
    [1, 3, 2].into_iter().find(|wanted| failed.iter().any(|class| code(class) == *wanted)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn calm() -> World {
        World::new(5, Profile { clients: 1, ..Profile::calm(3) }, false)
    }

    fn class(world: World) -> Option<Class> {
        catch_panics();
        judge(world, 0).failure.map(|failure| failure.class)
    }

    #[test]
    fn each_class_of_failure_is_told_apart() {
        assert_eq!(class(calm()), None);
        let mut silent = calm();
        silent.trouble[0].held = true;
        silent.trouble[1].held = true;
        assert_eq!(class(silent), Some(Class::Liveness), "no quorum ever runs");
        let mut panics = calm();
        panics.queue.plan(SECOND, Event::Fault(u8::MAX));
        assert_eq!(class(panics), Some(Class::Crash), "there is no such fault");
        let mut wrong = calm();
        wrong.checks.states.leads(77, 2).unwrap();
        assert_eq!(class(wrong), Some(Class::Correctness), "somebody else leads in that term");
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst_class() {
        let (correctness, liveness, crash) = (Class::Correctness, Class::Liveness, Class::Crash);
        assert_eq!(exit_code(&[]), 0);
        assert_eq!(exit_code(&[correctness]), 1);
        assert_eq!(exit_code(&[liveness, liveness]), 2);
        assert_eq!(exit_code(&[liveness, crash]), 3);
        assert_eq!(exit_code(&[crash, liveness, correctness]), 1);
    }
}
