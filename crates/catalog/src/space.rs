//! Space: collecting what nobody needs, pruning what nobody wants, and who takes how much.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::account::Account;
use crate::error::{Error, Refusal, Result};
use crate::id::{ImageId, LayerId};
use crate::job::{remove_layer, sweep_locked};
use crate::layout::names_in;
use crate::manifest::Manifest;
use crate::query::{Filter, Image, Listed};
use crate::remove::Removal;
use crate::rights::{Action, Relation};
use crate::store::Store;

/// What a collection freed, or would free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Directories of dead jobs.
    pub jobs: Vec<String>,
    /// Layers that no image and no instance has, with their bytes.
    pub layers: Vec<(LayerId, u64)>,
    /// Bytes of those.
    pub freed_bytes: u64,
}

/// Which images to prune.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Of each name, the newest so many stay.
    pub keep: Option<usize>,
    /// Only images published before this moment go.
    pub before: Option<Timestamp>,
    /// The oldest go until the account's images take no more than so many bytes; without it, all candidates go.
    pub budget: Option<u64>,
}

/// What is to become of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The image.
    pub image: Manifest,
    /// Whether it goes.
    pub goes: bool,
    /// Why, or why not.
    pub why: String,
    /// Bytes that its going frees.
    pub frees: u64,
}

/// How much an image takes. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageUsage {
    /// The image.
    pub id: ImageId,
    /// Its name and tag.
    pub title: String,
    /// Whose it is.
    pub owner: Account,
    /// Length of its disk.
    pub disk_bytes: u64,
    /// What only it takes.
    pub own_bytes: u64,
    /// What it takes together with others.
    pub shared_bytes: u64,
}

/// How much an account takes. Sizes are bytes; every layer is counted once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountUsage {
    /// The account.
    pub account: Account,
    /// Its images.
    pub images: u64,
    /// Length of their disks.
    pub disk_bytes: u64,
    /// What only its images take.
    pub own_bytes: u64,
    /// What its images take together with others'.
    pub shared_bytes: u64,
}

/// An image in the tree of origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The image.
    pub image: Image,
    /// The image that it was made from, when that is in this store and may be seen.
    pub parent: Option<ImageId>,
    /// Names, or ids, of the instances that run from it.
    pub instances: Vec<String>,
}

impl Store {
    /// Removes layers that nobody needs and what dead commands left. Safe beside running commands: names change
    /// under one lock only, and what a running command is making is in its own directory.
    ///
    /// # Errors
    /// [`Refusal::NotClean`] when an image or an instance cannot be read, as its layers are then not known; I/O.
    pub fn collect(&self, dry_run: bool) -> Result<Collected> {
        let _lock = self.exclusive()?;
        let index = self.index()?;
        let (entries, damaged) = self.entries()?;
        let (instances, damaged_instances) = self.instance_files()?;
        if let Some(what) = damaged.first().map(|(id, _)| id.to_string()) {
            return Err(Refusal::NotClean { what }.into());
        }
        if let Some((what, _)) = damaged_instances.into_iter().next() {
            return Err(Refusal::NotClean { what }.into());
        }
        // What either the files or the index know is needed.
        let mut needed: BTreeSet<String> = index.held_layers()?.into_iter().collect();
        for entry in &entries {
            needed.extend(entry.manifest.layers.iter().map(|layer| layer.digest.to_string()));
        }
        for (record, _) in &instances {
            needed.extend(record.layers.iter().map(ToString::to_string));
        }
        let mut collected = Collected::default();
        if !dry_run {
            collected.jobs = sweep_locked(self, Some(index))?.cleared;
        }
        for dir in names_in(&self.layout.layers())? {
            for name in names_in(&self.layout.layers().join(&dir)).unwrap_or_default() {
                let stem = name.strip_suffix(".qcow2").or_else(|| name.strip_suffix(".leaves"));
                let Some(id) = stem.and_then(|stem| format!("sha256:{stem}").parse::<LayerId>().ok()) else {
                    continue;
                };
                if needed.contains(&id.to_string()) || collected.layers.iter().any(|(other, _)| *other == id)
                {
                    continue;
                }
                let len = crate::jobs::len_of(&self.layout.layer(&id))?;
                if !dry_run {
                    remove_layer(&self.layout, &id)?;
                }
                collected.freed_bytes = collected.freed_bytes.saturating_add(len);
                collected.layers.push((id, len));
            }
        }
        Ok(collected)
    }

    /// What pruning would do to each own image, oldest first.
    ///
    /// # Errors
    /// A damaged index.
    pub fn plan_prune(&self, policy: &PrunePolicy) -> Result<Vec<Verdict>> {
        let filter = Filter { owner: Some(self.account.clone()), ..Filter::default() };
        let mut own = self.list(&filter)?;
        own.sort_by(|a, b| {
            (a.manifest.created_at, &a.manifest.id).cmp(&(b.manifest.created_at, &b.manifest.id))
        });
        let newest = newest_of_each_name(&own, policy.keep.unwrap_or(0));
        let index = self.index()?;
        let now = Timestamp::now();
        // Every layer's holders among those that stay, so that the last of several to go frees what they shared.
        let mut holders: BTreeMap<LayerId, u64> = BTreeMap::new();
        let mut taken = 0_u64;
        for listed in &own {
            for layer in &listed.manifest.layers {
                if holders.insert(layer.digest.clone(), index.holders(&layer.digest)?).is_none() {
                    taken = taken.saturating_add(layer.byte_len);
                }
            }
        }
        let mut verdicts = Vec::new();
        for listed in own {
            let expired = listed.record.expired(now);
            let mut stays = None;
            if !expired {
                if newest.contains(&listed.manifest.id) {
                    stays = Some(format!("one of the newest {} of its name", policy.keep.unwrap_or(0)));
                } else if policy.before.is_some_and(|before| listed.manifest.created_at >= before) {
                    stays = Some("not old enough".to_owned());
                } else if policy.budget.is_some_and(|budget| taken <= budget) {
                    stays = Some("within the budget".to_owned());
                } else if policy.keep.is_none() && policy.before.is_none() && policy.budget.is_none() {
                    stays = Some("not expired".to_owned());
                }
            }
            let image = Image {
                manifest: listed.manifest.clone(),
                record: listed.record.clone(),
                relation: listed.relation,
            };
            if stays.is_none()
                && let Err(Error::Refused(Refusal::Rights { reason, .. })) =
                    self.permit_with(&index, Action::Delete, &image)
            {
                stays = Some(reason.words().to_owned());
            }
            let mut frees = 0_u64;
            let goes = stays.is_none();
            let why = stays.unwrap_or_else(|| match (expired, policy.before, policy.budget) {
                (true, ..) => "expired".to_owned(),
                (_, _, Some(budget)) => format!("the oldest, and {taken} bytes are more than {budget}"),
                (_, Some(before), _) => format!("published before {}", before.strftime("%Y-%m-%d")),
                _ => format!("not one of the newest {} of its name", policy.keep.unwrap_or(0)),
            });
            if goes {
                for layer in &listed.manifest.layers {
                    if let Some(count) = holders.get_mut(&layer.digest) {
                        *count = count.saturating_sub(1);
                        if *count == 0 {
                            frees = frees.saturating_add(layer.byte_len);
                        }
                    }
                }
                taken = taken.saturating_sub(frees);
            }
            verdicts.push(Verdict { image: listed.manifest, goes, why, frees });
        }
        Ok(verdicts)
    }

    /// Removes what a plan says.
    ///
    /// # Errors
    /// As [`Store::remove`]; what was removed before stays removed.
    pub fn prune(&self, plan: &[Verdict]) -> Result<Vec<Removal>> {
        plan.iter().filter(|verdict| verdict.goes).map(|verdict| self.remove(&verdict.image.id)).collect()
    }

    /// How much each image that the account may see takes, and how much each of their owners does.
    ///
    /// # Errors
    /// A damaged index.
    pub fn usage(&self) -> Result<(Vec<ImageUsage>, Vec<AccountUsage>)> {
        let listed = self.list(&Filter::default())?;
        let index = self.index()?;
        let mut images = Vec::new();
        let mut accounts: BTreeMap<Account, (AccountUsage, BTreeSet<LayerId>)> = BTreeMap::new();
        for entry in &listed {
            let owner = entry.record.owner.clone();
            images.push(ImageUsage {
                id: entry.manifest.id.clone(),
                title: entry.manifest.title(),
                owner: owner.clone(),
                disk_bytes: entry.manifest.disk_bytes,
                own_bytes: entry.own_bytes,
                shared_bytes: entry.stored_bytes.saturating_sub(entry.own_bytes),
            });
            let (usage, seen) = accounts.entry(owner.clone()).or_insert_with(|| {
                let usage = AccountUsage {
                    account: owner.clone(),
                    images: 0,
                    disk_bytes: 0,
                    own_bytes: 0,
                    shared_bytes: 0,
                };
                (usage, BTreeSet::new())
            });
            usage.images = usage.images.saturating_add(1);
            usage.disk_bytes = usage.disk_bytes.saturating_add(entry.manifest.disk_bytes);
            for layer in &entry.manifest.layers {
                if !seen.insert(layer.digest.clone()) {
                    continue;
                }
                let mut others = false;
                for image in index.images_of(&layer.digest)? {
                    let owner_of = index.ids("SELECT owner FROM images WHERE id = ?1", [image.as_str()])?;
                    others |= owner_of.first().is_some_and(|other| other != owner.as_str());
                }
                let sum = if others { &mut usage.shared_bytes } else { &mut usage.own_bytes };
                *sum = sum.saturating_add(layer.byte_len);
            }
        }
        Ok((images, accounts.into_values().map(|(usage, _)| usage).collect()))
    }

    /// The images that the account may see, with what they were made from.
    ///
    /// # Errors
    /// A damaged index.
    pub fn lineage(&self) -> Result<Vec<Node>> {
        let listed = self.list(&Filter::default())?;
        let seen: BTreeSet<ImageId> = listed.iter().map(|entry| entry.manifest.id.clone()).collect();
        let instances = self.instances()?;
        let nodes = listed.into_iter().map(|Listed { manifest, record, relation, .. }| {
            let parent = manifest.origin.as_ref().and_then(|origin| {
                // A parent that was removed is passed over for its own.
                [&origin.image].into_iter().chain(&origin.before).find(|id| seen.contains(*id)).cloned()
            });
            let running = instances.iter().filter(|instance| instance.image == manifest.id);
            let instances = running
                .map(|instance| instance.name.as_ref().map_or(instance.id.to_string(), ToString::to_string))
                .collect();
            Node { image: Image { manifest, record, relation }, parent, instances }
        });
        Ok(nodes.collect())
    }
}

/// What bytes cost for a month, at the price of a GiB.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "money is shown to a few digits")]
pub fn monthly_cost(bytes: u64, price_per_gib: f64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64 * price_per_gib
}

/// The ids of the newest `keep` images of each name. `own` is oldest first.
fn newest_of_each_name(own: &[Listed], keep: usize) -> BTreeSet<ImageId> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut newest = BTreeSet::new();
    for listed in own.iter().rev() {
        let count = counts.entry(listed.manifest.name.as_str()).or_default();
        if *count < keep {
            *count += 1;
            newest.insert(listed.manifest.id.clone());
        }
    }
    newest
}

impl PrunePolicy {
    /// Whether it says anything. One that does not prunes expired images only.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Listed {
    /// Whether the account that asked owns it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.relation == Relation::Owner
    }
}
