//! Changes in an image's life: every one asks the rights table, writes a new record and is remembered in it.
//!
//! A change is published as an image is: the intent, the file, the row. The row decides.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kiln_disk::Existing;

use crate::account::Account;
use crate::error::{Refusal, Result};
use crate::guest::GuestRecord;
use crate::id::ImageId;
use crate::index::{Edit, Entry, Index, Texts};
use crate::job::{Intent, scratch_dir, settle};
use crate::layout::{make_dir, write_whole};
use crate::manifest::{CheckRecord, ImageType, Manifest, State};
use crate::name::{MAX_DESCRIPTION, Name, NameTag};
use crate::publish::{IfTaken, check_description};
use crate::query::Image;
use crate::record::{Audit, MAX_LABELS, Record, Share, Verified, What, check_text};
use crate::rights::{Action, Case, Circumstance, Reason, asks, decide};
use crate::sealed;
use crate::steps::Step;
use crate::store::Store;

/// Attributes to change; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Free text of at most 256 characters.
    pub description: Option<String>,
    /// The operating system; an empty text forgets it.
    pub os: Option<String>,
    /// The architecture; an empty text forgets it.
    pub architecture: Option<String>,
    /// How it boots; an empty text forgets it.
    pub boot_mode: Option<String>,
    /// The family; `Some(None)` takes it out of its family.
    pub family: Option<Option<Name>>,
    /// When it ceases to be offered; `Some(None)` for never.
    pub expires_at: Option<Option<Timestamp>>,
    /// Labels to set, and with `None` to take off.
    pub labels: BTreeMap<String, Option<String>>,
}

impl Store {
    /// What the rights table says.
    ///
    /// # Errors
    /// [`Refusal::Rights`], and [`Refusal::NotFound`] for an image that the account may not see.
    pub fn permit(&self, action: Action, image: &Image) -> Result<()> {
        self.permit_with(&self.index()?, action, image)
    }

    pub(crate) fn permit_with(&self, index: &Index, action: Action, image: &Image) -> Result<()> {
        decide(action, &self.case_of(index, action, image)?).map_err(|reason| match reason {
            Reason::Hidden => Refusal::NotFound { query: image.manifest.id.to_string(), near: Vec::new() },
            reason => Refusal::Rights {
                action,
                id: image.manifest.id.clone(),
                title: image.manifest.title(),
                reason,
            },
        })?;
        Ok(())
    }

    /// The image as the rights table sees it; of the circumstances, those that the action asks for.
    fn case_of(&self, index: &Index, action: Action, image: &Image) -> Result<Case> {
        let record = &image.record;
        let id = &image.manifest.id;
        let mut circumstances = Vec::new();
        for circumstance in asks(action) {
            let so = match circumstance {
                Circumstance::Public => record.image_type == ImageType::Public,
                Circumstance::Shared => !record.shares.is_empty(),
                Circumstance::Protected => record.protected,
                Circumstance::InUse => !index.instances_of(id)?.is_empty(),
                Circumstance::Busy => self.is_busy(id)?,
                Circumstance::Expired => record.expired(Timestamp::now()),
                Circumstance::Unsound => {
                    let checks = record.screened.as_ref().unwrap_or(&image.manifest.checks);
                    checks.forced
                        || checks.findings.iter().any(|finding| finding.severity.fails())
                        || image.guest().is_some_and(|guest| guest.stops_here().is_some())
                }
                Circumstance::Unaudited => record.audits.is_empty(),
            };
            if so {
                circumstances.push(*circumstance);
            }
        }
        Ok(Case { relation: self.relation_to(record), state: record.state, circumstances })
    }

    /// Changes one image. `edit` gets its record and says what is to be remembered; an empty answer changes nothing.
    pub(crate) fn change(
        &self,
        id: &ImageId,
        action: Action,
        edit: impl FnOnce(&mut Record) -> Result<Vec<(What, String)>>,
    ) -> Result<Image> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        let image = self.image_of(&index, id)?;
        self.permit_with(&index, action, &image)?;
        let mut record = image.record.clone();
        let events = edit(&mut record)?;
        if events.is_empty() {
            return Ok(image);
        }
        for (what, detail) in events {
            record.note(&self.account, what, detail);
        }
        self.write_records(&mut index, vec![record])?;
        self.image_of(&index, id)
    }

    /// Writes records for good, all or none. The caller holds the store's exclusive lock.
    pub(crate) fn write_records(&self, index: &mut Index, records: Vec<Record>) -> Result<()> {
        let mut entries = Vec::new();
        for record in records {
            entries.push(self.amended(index, record)?);
        }
        let intent = Intent {
            images: entries.iter().map(|entry| entry.manifest.id.clone()).collect(),
            ..Intent::default()
        };
        let mut job = scratch_dir(&self.layout)?;
        self.steps.before(Step::Intent)?;
        job.announce(&intent)?;
        let written = (|| {
            for entry in &entries {
                self.steps.before(Step::Record)?;
                self.write_record_file(entry)?;
            }
            self.steps.before(Step::Commit)?;
            let edits: Vec<Edit<'_>> = entries.iter().map(Edit::Amend).collect();
            index.change(&edits)
        })();
        match written {
            Ok(()) => {
                // Should the intent not go away, the next command finds that row and file agree.
                let _ = job.settled();
                Ok(())
            }
            Err(error) => {
                drop(settle(self, index, &intent).and_then(|()| job.settled()));
                Err(error)
            }
        }
    }

    /// A record, one revision on, as it goes to disk and into the index.
    pub(crate) fn amended(&self, index: &Index, mut record: Record) -> Result<Entry> {
        record.revision = record.revision.saturating_add(1);
        let id = record.id.clone();
        let texts =
            index.texts(&id)?.ok_or_else(|| Refusal::NotFound { query: id.to_string(), near: Vec::new() })?;
        let manifest = Manifest::parse(&texts.manifest, &self.layout.manifest(&id))?;
        let text = sealed::render(&record, &self.layout.record(&id))?;
        Ok(Entry {
            manifest: record.amend(manifest),
            record,
            texts: Texts { manifest: texts.manifest, record: Some(text) },
        })
    }

    pub(crate) fn write_record_file(&self, entry: &Entry) -> Result<()> {
        let id = &entry.manifest.id;
        make_dir(&self.layout.image(id))?;
        let text = entry.texts.record.as_deref().unwrap_or_default();
        write_whole(&self.layout.record(id), text, Existing::Replace)
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// [`Refusal::Rights`], [`Refusal::Text`], [`Refusal::TooMany`].
    pub fn set_attributes(&self, id: &ImageId, wanted: &Attributes) -> Result<Image> {
        if let Some(text) = &wanted.description {
            check_description(text)?;
        }
        for (what, text) in
            [("os", &wanted.os), ("architecture", &wanted.architecture), ("boot mode", &wanted.boot_mode)]
        {
            if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
                check_text(what, text, 60)?;
            }
        }
        for (key, value) in &wanted.labels {
            check_text("label", key, 63)?;
            if key.contains('=') {
                return Err(Refusal::Text { what: "label", len: key.chars().count(), allowed: 63 }.into());
            }
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                check_text("label's value", value, MAX_DESCRIPTION)?;
            }
        }
        self.change(id, Action::Change, |record| {
            let before = record.clone();
            if let Some(text) = &wanted.description {
                record.description.clone_from(text);
            }
            let fact = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
            if let Some(text) = &wanted.os {
                record.os = fact(text);
            }
            if let Some(text) = &wanted.architecture {
                record.architecture = fact(text);
            }
            if let Some(text) = &wanted.boot_mode {
                record.boot_mode = fact(text);
            }
            if let Some(family) = &wanted.family {
                record.family.clone_from(family);
            }
            if let Some(at) = wanted.expires_at {
                record.expires_at = at;
            }
            for (key, value) in &wanted.labels {
                match value {
                    Some(value) => drop(record.labels.insert(key.clone(), value.clone())),
                    None => drop(record.labels.remove(key)),
                }
            }
            if record.labels.len() > MAX_LABELS {
                return Err(Refusal::TooMany { what: "labels", allowed: MAX_LABELS }.into());
            }
            let changed = [
                ("description", before.description != record.description),
                ("os", before.os != record.os),
                ("architecture", before.architecture != record.architecture),
                ("boot mode", before.boot_mode != record.boot_mode),
                ("family", before.family != record.family),
                ("expiry", before.expires_at != record.expires_at),
                ("labels", before.labels != record.labels),
            ];
            let words: Vec<&str> =
                changed.iter().filter(|(_, changed)| *changed).map(|(word, _)| *word).collect();
            Ok(if words.is_empty() { Vec::new() } else { vec![(What::Changed, words.join(", "))] })
        })
    }

    /// Gives an image another name and tag. A tag that another image of the owner has is refused, or moved.
    ///
    /// # Errors
    /// [`Refusal::Rights`] for either image, [`Refusal::NameTaken`].
    pub fn tag(&self, id: &ImageId, name: &NameTag, if_taken: IfTaken) -> Result<(Image, Option<ImageId>)> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        let image = self.image_of(&index, id)?;
        self.permit_with(&index, Action::Tag, &image)?;
        if image.manifest.name_tag().as_ref() == Some(name) {
            return Ok((image, None));
        }
        let mut records = Vec::new();
        let holder = self.holder(&index, name)?;
        if let Some(holder) = &holder {
            if if_taken == IfTaken::Refuse {
                let taken = Refusal::NameTaken { name: name.to_string(), holder: holder.clone() };
                return Err(taken.into());
            }
            records.push(self.untagged(&index, holder, id)?);
        }
        let mut record = image.record.clone();
        record.note(&self.account, What::Tagged, format!("{} to {name}", image.manifest.title()));
        record.name = name.name.clone();
        record.tag = Some(name.tag.clone());
        records.push(record);
        self.write_records(&mut index, records)?;
        Ok((self.image_of(&index, id)?, holder))
    }

    /// The record of an image that loses its tag to another, if it may.
    pub(crate) fn untagged(&self, index: &Index, holder: &ImageId, to: &ImageId) -> Result<Record> {
        let image = self.image_of(index, holder)?;
        self.permit_with(index, Action::Tag, &image)?;
        let mut record = image.record;
        record.note(&self.account, What::Untagged, format!("{} went to {to}", image.manifest.title()));
        record.tag = None;
        Ok(record)
    }

    /// Takes the tag away; the image is then found by its id and digests.
    ///
    /// # Errors
    /// [`Refusal::Rights`].
    pub fn untag(&self, id: &ImageId) -> Result<Image> {
        self.change(id, Action::Tag, |record| match record.tag.take() {
            Some(tag) => Ok(vec![(What::Untagged, format!("{}:{tag}", record.name))]),
            None => Ok(Vec::new()),
        })
    }

    /// Says that an image is no longer recommended, or is again.
    ///
    /// # Errors
    /// [`Refusal::Rights`].
    pub fn set_deprecated(&self, id: &ImageId, deprecated: bool) -> Result<Image> {
        self.change(id, Action::Deprecate, |record| {
            let (next, what) = match deprecated {
                true => (State::Deprecated, What::Deprecated),
                false => (State::Normal, What::Undeprecated),
            };
            if !record.state.leads_to(next) {
                return Ok(Vec::new());
            }
            record.state = next;
            Ok(vec![(what, String::new())])
        })
    }

    /// Keeps an image from removal, or no longer.
    ///
    /// # Errors
    /// [`Refusal::Rights`].
    pub fn set_protected(&self, id: &ImageId, protected: bool) -> Result<Image> {
        self.change(id, Action::Protect, |record| {
            if record.protected == protected {
                return Ok(Vec::new());
            }
            record.protected = protected;
            let what = if protected { What::Protected } else { What::Unprotected };
            Ok(vec![(what, String::new())])
        })
    }

    /// Makes an image public. It must have passed its checks, and somebody must have written down an audit.
    ///
    /// # Errors
    /// [`Refusal::Rights`].
    pub fn make_public(&self, id: &ImageId) -> Result<Image> {
        self.change(id, Action::Publish, |record| {
            if record.image_type == ImageType::Public {
                return Ok(Vec::new());
            }
            record.image_type = ImageType::Public;
            Ok(vec![(What::MadePublic, String::new())])
        })
    }

    /// Makes a public image its owner's again.
    ///
    /// # Errors
    /// [`Refusal::Rights`].
    pub fn make_private(&self, id: &ImageId) -> Result<Image> {
        self.change(id, Action::Withdraw, |record| {
            if record.image_type == ImageType::Custom {
                return Ok(Vec::new());
            }
            record.image_type = ImageType::Custom;
            Ok(vec![(What::MadePrivate, String::new())])
        })
    }

    /// Writes down that somebody looked at an image, and what they say.
    ///
    /// # Errors
    /// [`Refusal::Rights`], [`Refusal::Text`].
    pub fn audit(&self, id: &ImageId, note: &str) -> Result<Image> {
        check_text("note", note, MAX_DESCRIPTION)?;
        self.change(id, Action::Audit, |record| {
            record.audits.push(Audit {
                account: self.account.clone(),
                at: Timestamp::now(),
                note: note.to_owned(),
            });
            if record.audits.len() > 100 {
                record.audits.remove(0);
            }
            Ok(vec![(What::Audited, note.to_owned())])
        })
    }

    /// Shares an image with accounts.
    ///
    /// # Errors
    /// [`Refusal::Rights`]; [`Refusal::ShareWithSelf`]; [`Refusal::Quota`].
    pub fn share(&self, id: &ImageId, with: &[Account]) -> Result<Image> {
        self.change(id, Action::Share, |record| {
            let mut events = Vec::new();
            for account in with {
                if *account == record.owner {
                    return Err(Refusal::ShareWithSelf.into());
                }
                if record.share_of(account).is_some() {
                    continue;
                }
                let used = u64::try_from(record.shares.len()).unwrap_or(u64::MAX);
                let allowed = self.quota.shares;
                if used >= allowed {
                    return Err(Refusal::Quota { what: "shares", used, asked: 1, allowed }.into());
                }
                record.shares.push(Share {
                    account: account.clone(),
                    since: Timestamp::now(),
                    accepted_at: None,
                });
                events.push((What::Shared, account.to_string()));
            }
            Ok(events)
        })
    }

    /// Shares an image no longer with accounts. Instances that run from it go on; they keep their layers.
    ///
    /// # Errors
    /// [`Refusal::Rights`]; [`Refusal::NotShared`].
    pub fn revoke(&self, id: &ImageId, from: &[Account]) -> Result<Image> {
        self.change(id, Action::Revoke, |record| {
            let mut events = Vec::new();
            for account in from {
                let before = record.shares.len();
                record.shares.retain(|share| share.account != *account);
                if record.shares.len() == before {
                    return Err(Refusal::NotShared { account: account.clone() }.into());
                }
                events.push((What::Revoked, account.to_string()));
            }
            Ok(events)
        })
    }

    /// Acknowledges where a shared image comes from, on behalf of the account.
    ///
    /// # Errors
    /// [`Refusal::Rights`].
    pub fn accept(&self, id: &ImageId) -> Result<Image> {
        let account = self.account.clone();
        self.change(id, Action::Accept, |record| {
            match record.shares.iter_mut().find(|share| share.account == account) {
                Some(share) if share.accepted_at.is_none() => share.accepted_at = Some(Timestamp::now()),
                _ => return Ok(Vec::new()),
            }
            Ok(vec![(What::Accepted, String::new())])
        })
    }

    /// Writes down that all of an image was read, and whether it was what it should be.
    ///
    /// # Errors
    /// [`Refusal::Rights`].
    pub fn note_verified(&self, id: &ImageId, intact: bool) -> Result<Image> {
        self.change(id, Action::Verify, |record| {
            // A sound image that is read every night should not fill its history with that.
            let news = record.verified.as_ref().is_none_or(|last| last.intact != intact);
            record.verified = Some(Verified { at: Timestamp::now(), intact });
            let detail = if intact { "intact" } else { "damaged" };
            if !news {
                record.history.retain(|event| event.what != What::Verified);
            }
            Ok(vec![(What::Verified, detail.to_owned())])
        })
    }

    /// Writes down what today's rules say about an image's guest, whosever it is. The same answer is not written again.
    ///
    /// # Errors
    /// I/O.
    pub fn note_guest(&self, id: &ImageId, guest: GuestRecord) -> Result<()> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        // Removed since by another process.
        let Some(texts) = index.texts(id)? else { return Ok(()) };
        let entry = self.entry_of(id.as_str(), texts)?;
        let mut record = entry.record;
        if record.guest.as_ref().or(entry.manifest.guest.as_ref()) == Some(&guest) {
            return Ok(());
        }
        record.note(&self.account, What::Screened, format!("guest rules {}", guest.rule_set));
        record.guest = Some(guest);
        self.write_records(&mut index, vec![record])
    }

    /// Writes down what later rules say about an image, whosever it is.
    ///
    /// # Errors
    /// I/O.
    pub fn note_screened(&self, id: &ImageId, checks: CheckRecord) -> Result<()> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        // Removed since by another process.
        let Some(texts) = index.texts(id)? else { return Ok(()) };
        let mut record = self.entry_of(id.as_str(), texts)?.record;
        record.note(&self.account, What::Screened, format!("rules {}", checks.rule_set));
        record.screened = Some(checks);
        self.write_records(&mut index, vec![record])
    }
}
