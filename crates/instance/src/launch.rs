//! Running a plan: files, then records, then machines.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kiln_catalog::machine::Network;
use kiln_catalog::{Born, InstanceRecord};
use kiln_disk::{Observer, go_on};

use crate::error::Result;
use crate::files;
use crate::host::Host;
use crate::plan::Plan;
use crate::process;
use crate::seed::{Identity, SeedNic};

/// Whether, and how many at a time, new instances are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// They are only made.
    No,
    /// So many at a time.
    AtATime(NonZeroUsize),
}

/// What became of a plan.
#[derive(Debug)]
pub struct Launched {
    /// The instances that are there now, in the order of the plan, and why one does not run that should.
    pub instances: Vec<(InstanceRecord, Result<()>)>,
    /// From the first file to the record of the last.
    pub prepared_in: Duration,
    /// Until the last QEMU answered.
    pub started_in: Duration,
}

impl Plan {
    /// Makes the instances, all or none, and starts them.
    ///
    /// # Errors
    /// As [`kiln_catalog::Births::publish`]; files that cannot be made; `Cancelled` before the instances exist. That
    /// one does not start is no error of the others.
    pub fn run(self, start: Start, host: &Host, observer: &dyn Observer) -> Result<Launched> {
        let began = Instant::now();
        let images = self.instances.iter().flat_map(|one| &one.machine.disks);
        let mut images: Vec<_> = images.filter_map(|disk| disk.image.clone()).collect();
        images.sort();
        images.dedup();
        let births = self.store.begin_instances(&self.image.title(), images, self.instances.len())?;
        let threads = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let ids = births.ids().to_vec();
        let pairs: Vec<_> = ids.iter().zip(self.instances).collect();
        let made = each(&pairs, threads.saturating_mul(2), |(id, planned)| {
            go_on(observer)?;
            let machine = planned.machine.clone();
            let hostname = planned.name.as_ref().map_or(id.as_str(), |name| name.as_str());
            let identity = Identity {
                instance_id: machine.instance_id.clone(),
                uuid: machine.uuid.clone(),
                hostname: hostname_of(hostname),
                ssh_keys: self.ssh_keys.lines().to_vec(),
                nics: machine
                    .nics
                    .iter()
                    .map(|nic| SeedNic { mac: nic.mac.clone(), connected: nic.network != Network::None })
                    .collect(),
            };
            files::make(&births.dir(id), &machine, self.architecture, &identity, self.user_data.as_ref())?;
            Ok(Born { name: planned.name.clone(), image: self.image.id.clone(), machine })
        });
        let born = made.into_iter().collect::<Result<Vec<Born>>>()?;
        let records = births.publish(born)?;
        let prepared_in = began.elapsed();
        let started = match start {
            Start::No => records.iter().map(|_| Ok(())).collect(),
            Start::AtATime(many) => each(&records, many.get(), |record| {
                go_on(observer)?;
                process::start(&self.store, record, host)
            }),
        };
        let instances = records.into_iter().zip(started).collect();
        Ok(Launched { instances, prepared_in, started_in: began.elapsed() })
    }
}

/// A name as a host name: RFC 1123 knows letters, digits and hyphens, 63 of them a label.
fn hostname_of(name: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(plain).take(63).collect();
    name.trim_matches('-').to_owned()
}

/// Does something to each of `things`, so many at a time; the answers in their order.
pub(crate) fn each<T: Sync, R: Send>(
    things: &[T],
    at_a_time: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time.min(things.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(thing) = things.get(number) else { return };
                    let answer = work(thing);
                    answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((number, answer));
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_host_names() {
        for (name, host) in [("web-1", "web-1"), ("Web_1.prod", "web-1-prod"), ("_x_", "x")] {
            assert_eq!(hostname_of(name), host);
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_things() {
        let things: Vec<u64> = (0..50).collect();
        let doubled = each(&things, 7, |thing| {
            std::thread::sleep(Duration::from_micros(50 - thing));
            thing * 2
        });
        assert_eq!(doubled, things.iter().map(|thing| thing * 2).collect::<Vec<_>>());
    }
}
