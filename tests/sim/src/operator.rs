//! The operator: adds, removes and replaces members, one job at a time, through any host that serves.
//!
//! Owns: the job under way. A member that lost its disk or whose disk is refused is removed and its host joins again as
//! a new member with an empty disk: the way the documentation prescribes.

use ringd::core::event::{ClientToken, Input, Outcome};
use ringd::core::membership::{MemberChange, MemberRefusal};
use ringd_storage::ids::MemberId;

use crate::event::{Event, HostId};
use crate::rng::Rng;
use crate::time::{MILLI, SECOND};
use crate::world::{HOSTS_MAX, World, member};

/// The operator's place among clients' tokens.
pub(crate) const OPERATOR_SLOT: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Remove(MemberId),
    Add(MemberId),
}

#[derive(Clone, Copy, Debug)]
struct Job {
    host: HostId,
    step: Step,
    /// It joins again afterwards.
    rejoins: bool,
    sent_at: Option<u64>,
    /// Requests up to this one were an earlier job's: their answers may still come.
    since: u32,
}

/// See the module documentation.
#[derive(Default)]
pub struct Operator {
    job: Option<Job>,
    requests: u32,
}

impl Operator {
    /// Whether no job is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.job.is_none()
    }
}

impl World {
    /// Begins to add a member, or to remove the one of a host. False when now is not the time.
    pub(crate) fn change_members(&mut self, host: HostId, adds: bool) -> bool {
        let whole = self.trouble.iter().all(|trouble| !trouble.refused && trouble.damaged.is_none());
        if self.operator.job.is_some() || self.amnesic.is_some() || !whole || !self.cluster_is_even() {
            return false;
        }
        let at = usize::from(host);
        let members = self.trouble.iter().filter(|trouble| !trouble.gone).count();
        let step = if adds {
            let host = match self.trouble.iter().position(|trouble| trouble.gone) {
                Some(free) if self.hosts[free].process.is_none() => free as HostId,
                _ if self.hosts.len() < HOSTS_MAX && members < 6 => {
                    let config = self.host_config(Vec::new());
                    let mut rng = Rng::new(self.seed, 30_000 + self.hosts.len() as u64);
                    self.add_host(MemberId::default(), config, &mut rng);
                    self.trouble.last_mut().expect("just added").gone = true;
                    (self.hosts.len() - 1) as HostId
                }
                _ => return false,
            };
            self.begin_add(host);
            return true;
        } else if members > 2 && !self.trouble[at].gone {
            Step::Remove(self.hosts[at].id)
        } else {
            return false;
        };
        self.note(host, format_args!("the operator begins: {step:?}"));
        self.operator.job = Some(Job { host, step, rejoins: false, sent_at: None, since: self.operator.requests });
        true
    }

    fn begin_add(&mut self, host: HostId) {
        let at = usize::from(host);
        let id = self.next_member;
        self.next_member += 1;
        self.hosts[at].disk.replace();
        self.checks.facts.forget_host(host);
        self.hosts[at].id = MemberId::new(id);
        self.hosts[at].config = self.host_config(Vec::new());
        self.note(host, format_args!("the operator adds member {id:x}"));
        self.operator.job = Some(Job {
            host,
            step: Step::Add(MemberId::new(id)),
            rejoins: true,
            sent_at: None,
            since: self.operator.requests,
        });
    }

    /// Looks for work, and tries again what was not answered.
    pub(crate) fn operate(&mut self) {
        self.queue.plan(self.now + 300 * MILLI, Event::Operate);
        if self.operator.job.is_none() {
            let refused = (0..self.hosts.len()).find(|at| self.trouble[*at].refused);
            let Some(at) = refused.filter(|_| self.trouble.len() > 1) else { return };
            let step = Step::Remove(self.hosts[at].id);
            self.note(at as HostId, format_args!("the operator replaces it"));
            self.operator.job =
                Some(Job { host: at as HostId, step, rejoins: true, sent_at: None, since: self.operator.requests });
        }
        let (now, serving) = (self.now, self.serving());
        let Some(job) = &mut self.operator.job else { return };
        if job.sent_at.is_some_and(|sent| now < sent + 10 * SECOND) {
            return;
        }
        if let (Step::Add(_), Some(_)) = (job.step, job.sent_at) {
            // It may have been added by the try nobody answered, and then the others may need it to go on.
            let host = job.host;
            self.trouble[usize::from(host)].gone = false;
            self.queue.plan(now, Event::Start(host));
        }
        let Some(job) = &mut self.operator.job else { return };
        let change = match job.step {
            Step::Remove(id) => MemberChange::Remove(id),
            Step::Add(id) => {
                let added = member(id.get());
                MemberChange::Add(ringd::core::membership::Member { name: String::new(), client_urls: vec![], ..added })
            }
        };
        if serving.is_empty() {
            return;
        }
        let via = serving[(self.rng.below(serving.len() as u64)) as usize];
        // Who asks again looks first whether the last try came through.
        let done = self.hosts[usize::from(via)].process.as_ref().is_some_and(|process| match change {
            MemberChange::Remove(id) => process.node.members().is_removed(id),
            MemberChange::Add(ref added) => process.node.members().get(added.id).is_some(),
            MemberChange::Update { .. } => false,
        });
        if done {
            self.operator_heard(u32::MAX, Outcome::Members(Ok(())));
            return;
        }
        let Some(job) = &mut self.operator.job else { return };
        job.sent_at = Some(now);
        self.operator.requests += 1;
        let token = ClientToken { slot: OPERATOR_SLOT, generation: 0, seq: self.operator.requests };
        self.input(via, Input::Members { token, change });
    }

    /// How a request ended.
    pub(crate) fn operator_heard(&mut self, request: u32, outcome: Outcome) {
        if self.operator.job.is_some_and(|job| request <= job.since) {
            return;
        }
        let Outcome::Members(result) = outcome else {
            if let Some(job) = &mut self.operator.job {
                job.sent_at = None;
            }
            return;
        };
        let Some(job) = self.operator.job else { return };
        self.note(job.host, format_args!("the operator hears {result:?} of {:?}", job.step));
        let at = usize::from(job.host);
        match (job.step, result) {
            (Step::Remove(_), Ok(()) | Err(MemberRefusal::IdNotFound | MemberRefusal::IdRemoved)) => {
                self.operator.job = None;
                self.trouble[at].gone = true;
                // It may never hear of it: then it is switched off.
                let life = self.hosts[at].life;
                self.queue.plan(self.now + 3 * SECOND, Event::Leave(job.host, life));
                if job.rejoins {
                    self.trouble[at].refused = false;
                    self.trouble[at].damaged = None;
                    self.begin_add(job.host);
                }
            }
            (Step::Add(_), Ok(()) | Err(MemberRefusal::IdExists)) => {
                self.operator.job = None;
                self.trouble[at].gone = false;
                self.trouble[at].refused = false;
                if self.amnesic == Some(job.host) {
                    self.amnesic = None;
                }
                self.queue.plan(self.now + 100 * MILLI, Event::Start(job.host));
            }
            _ => {
                if let Some(job) = &mut self.operator.job {
                    job.sent_at = None;
                }
            }
        }
    }
}
