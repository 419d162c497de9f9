//! The rights table: who may do what to which image.
//!
//! One table, asked by every command; nobody else decides. A cell is the answer for an action by somebody who
//! stands in a relation to the image; where that is yes, the image's state is asked; where that is yes as well,
//! its circumstances are. An image that somebody may not see is not there for them: every action on it is answered
//! as if there were none.
//!
//! The rules are those of the clouds that have public, custom and shared images: a receiver may launch from a
//! shared image and copy it into an own one, and nothing else; the owner may neither change nor remove what others
//! rely on.

use serde::Serialize;

use crate::manifest::State;

/// Something that is done to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// List it, show what is known about it.
    See,
    /// Prove that it is intact.
    Verify,
    /// Read its disk on this host, without taking it away.
    Read,
    /// Start an instance from it.
    Launch,
    /// Make an own custom image of it.
    Copy,
    /// Take its disk out of the store.
    Export,
    /// Acknowledge where it comes from.
    Accept,
    /// Change its description, facts, labels, family, expiry.
    Change,
    /// Give it another name or tag, or take the tag away.
    Tag,
    /// Say that it is no longer recommended, or is again.
    Deprecate,
    /// Keep it from removal, or no longer.
    Protect,
    /// Write down that somebody looked at it.
    Audit,
    /// Make it public.
    Publish,
    /// Make it private again.
    Withdraw,
    /// Share it with an account.
    Share,
    /// Share it no longer.
    Revoke,
    /// Remove it.
    Delete,
}

/// How an account stands to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// It is theirs.
    Owner,
    /// It is shared with them, and they acknowledged its source.
    Receiver,
    /// It is shared with them, and they did not acknowledge its source yet.
    Offered,
    /// It is public, and not theirs.
    Everyone,
    /// None of these.
    Stranger,
}

/// Something about an image that keeps an action from being done. A [`Case`] lists those that are so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Circumstance {
    /// It is public.
    Public,
    /// It is shared with others.
    Shared,
    /// It is protected.
    Protected,
    /// An instance runs from it.
    InUse,
    /// A command is working on it.
    Busy,
    /// Its time is over.
    Expired,
    /// Its checks found damage that was passed over.
    Unsound,
    /// Nobody wrote down that they looked at it.
    Unaudited,
}

/// Why an action is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// For this account there is no such image.
    Hidden,
    /// The source of a shared image was not acknowledged.
    NotAccepted,
    /// A shared image is its receiver's to launch and to copy only.
    Received,
    /// A public image is everyone's to launch and to copy, and its owner's to change.
    OfEveryone,
    /// Nothing was offered that could be accepted.
    NothingToAccept,
    /// It is not finished.
    Unfinished,
    /// Its making failed.
    Failed,
    /// It is deprecated.
    Deprecated,
    /// Something about it.
    Because(Circumstance),
}

/// An image as an account sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// How the account stands to it.
    pub relation: Relation,
    /// Where it stands.
    pub state: State,
    /// What is so about it.
    pub circumstances: Vec<Circumstance>,
}

/// One row of the table.
struct Row {
    action: Action,
    /// One letter for each of owner, receiver, offered, everyone, stranger; see [`relation_cell`].
    relations: [u8; 5],
    /// One letter for each of [`State::ALL`]; see [`state_cell`].
    states: [u8; 9],
    /// What keeps it from being done.
    unless: &'static [Circumstance],
}

use Circumstance::{Busy, Expired, InUse, Protected, Public, Shared, Unaudited, Unsound};

/// Relations: `y` yes, `a` not accepted yet, `r` received, `e` of everyone, `n` nothing to accept, `-` hidden.
/// States (pending, importing, creating, syncing, normal, deprecated, import-failed, create-failed, deleted):
/// `y` yes, `u` unfinished, `f` failed, `d` deprecated, `-` hidden.
#[rustfmt::skip]
const TABLE: [Row; 17] = [
    Row { action: Action::See,       relations: *b"yyyy-", states: *b"yyyyyyyy-", unless: &[] },
    Row { action: Action::Verify,    relations: *b"yyyy-", states: *b"uuuyyyff-", unless: &[] },
    Row { action: Action::Read,      relations: *b"yyay-", states: *b"uuuyyyff-", unless: &[] },
    Row { action: Action::Launch,    relations: *b"yyay-", states: *b"uuuuyyff-", unless: &[Expired] },
    Row { action: Action::Copy,      relations: *b"yyay-", states: *b"uuuuydff-", unless: &[Expired] },
    Row { action: Action::Export,    relations: *b"yrre-", states: *b"uuuuyyff-", unless: &[] },
    Row { action: Action::Accept,    relations: *b"nyyn-", states: *b"uuuuyyff-", unless: &[] },
    Row { action: Action::Change,    relations: *b"yrre-", states: *b"uuuuyyff-", unless: &[Public, Shared] },
    Row { action: Action::Tag,       relations: *b"yrre-", states: *b"uuuuyyff-", unless: &[Public, Shared] },
    Row { action: Action::Deprecate, relations: *b"yrre-", states: *b"uuuuyyff-", unless: &[Public, Shared] },
    Row { action: Action::Protect,   relations: *b"yrre-", states: *b"uuuyyyff-", unless: &[] },
    Row { action: Action::Audit,     relations: *b"yrre-", states: *b"uuuyyyff-", unless: &[] },
    Row { action: Action::Publish,   relations: *b"yrre-", states: *b"uuuuydff-", unless: &[Shared, Expired, Unsound, Unaudited] },
    Row { action: Action::Withdraw,  relations: *b"yrre-", states: *b"uuuyyyff-", unless: &[] },
    Row { action: Action::Share,     relations: *b"yrre-", states: *b"uuuuydff-", unless: &[Public, Expired] },
    Row { action: Action::Revoke,    relations: *b"yrre-", states: *b"uuuyyyyy-", unless: &[] },
    Row { action: Action::Delete,    relations: *b"yrre-", states: *b"uuuuyyyy-", unless: &[Public, Shared, Protected, InUse, Busy] },
];

/// Whether the action may be done.
///
/// # Errors
/// The reason why not.
pub fn decide(action: Action, case: &Case) -> Result<(), Reason> {
    let Some(row) = TABLE.iter().find(|row| row.action == action) else { return Err(Reason::Hidden) };
    relation_cell(row, case.relation)?;
    state_cell(row, case)?;
    match row.unless.iter().find(|circumstance| case.circumstances.contains(circumstance)) {
        Some(circumstance) => Err(Reason::Because(*circumstance)),
        None => Ok(()),
    }
}

/// The circumstances that an action asks for.
#[must_use]
pub(crate) fn asks(action: Action) -> &'static [Circumstance] {
    TABLE.iter().find(|row| row.action == action).map_or(&[], |row| row.unless)
}

fn relation_cell(row: &Row, relation: Relation) -> Result<(), Reason> {
    let column = match relation {
        Relation::Owner => 0,
        Relation::Receiver => 1,
        Relation::Offered => 2,
        Relation::Everyone => 3,
        Relation::Stranger => 4,
    };
    match row.relations[column] {
        b'y' => Ok(()),
        b'a' => Err(Reason::NotAccepted),
        b'r' => Err(Reason::Received),
        b'e' => Err(Reason::OfEveryone),
        b'n' => Err(Reason::NothingToAccept),
        _ => Err(Reason::Hidden),
    }
}

/// What is not whole yet, or never became so, is its owner's business alone.
fn state_cell(row: &Row, case: &Case) -> Result<(), Reason> {
    let usable = matches!(case.state, State::Syncing | State::Normal | State::Deprecated);
    if case.relation != Relation::Owner && !usable {
        return Err(Reason::Hidden);
    }
    let column = State::ALL.iter().position(|state| *state == case.state).unwrap_or(State::ALL.len() - 1);
    match row.states[column] {
        b'y' => Ok(()),
        b'u' => Err(Reason::Unfinished),
        b'f' => Err(Reason::Failed),
        b'd' => Err(Reason::Deprecated),
        _ => Err(Reason::Hidden),
    }
}

impl Action {
    /// All actions, in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        TABLE.iter().map(|row| row.action).collect()
    }

    /// The verb, for messages.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::See => "seen",
            Self::Verify => "verified",
            Self::Read => "read",
            Self::Launch => "launched",
            Self::Copy => "copied",
            Self::Export => "exported",
            Self::Accept => "accepted",
            Self::Change => "changed",
            Self::Tag => "renamed",
            Self::Deprecate => "deprecated",
            Self::Protect => "protected",
            Self::Audit => "audited",
            Self::Publish => "made public",
            Self::Withdraw => "made private",
            Self::Share => "shared",
            Self::Revoke => "revoked",
            Self::Delete => "removed",
        }
    }
}

impl Reason {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Hidden => "store.not-found",
            Self::NotAccepted => "rights.not-accepted",
            Self::Received => "rights.received",
            Self::OfEveryone => "rights.not-owner",
            Self::NothingToAccept => "rights.nothing-to-accept",
            Self::Unfinished => "rights.unfinished",
            Self::Failed => "rights.failed",
            Self::Deprecated => "rights.deprecated",
            Self::Because(Public) => "rights.public",
            Self::Because(Shared) => "rights.shared",
            Self::Because(Protected) => "rights.protected",
            Self::Because(InUse) => "rights.in-use",
            Self::Because(Busy) => "rights.busy",
            Self::Because(Expired) => "rights.expired",
            Self::Because(Unsound) => "rights.unsound",
            Self::Because(Unaudited) => "rights.unaudited",
        }
    }

    /// Why, in words that follow "cannot be removed: ".
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Hidden => "there is no such image",
            Self::NotAccepted => "its source was not acknowledged yet",
            Self::Received => "a shared image may be launched and copied, nothing else",
            Self::OfEveryone => "only its owner may do that to a public image",
            Self::NothingToAccept => "only an image that another account shared can be accepted",
            Self::Unfinished => "it is not finished",
            Self::Failed => "its making failed",
            Self::Deprecated => "it is deprecated",
            Self::Because(Public) => "it is public",
            Self::Because(Shared) => "it is shared",
            Self::Because(Protected) => "it is protected",
            Self::Because(InUse) => "an instance uses it",
            Self::Because(Busy) => "a command is working on it",
            Self::Because(Expired) => "it has expired",
            Self::Because(Unsound) => "its checks found damage, or a guest that will not start",
            Self::Because(Unaudited) => "nobody wrote down that they audited it",
        }
    }

    /// The way out.
    #[must_use]
    pub fn hint(self, id: &str) -> Option<String> {
        Some(match self {
            Self::NotAccepted => format!("look at it with kiln show {id}, then kiln accept {id}"),
            Self::Received | Self::OfEveryone => {
                format!("kiln copy {id} --name NAME makes an image of your own")
            }
            Self::Unfinished => "kiln jobs shows what is running".to_owned(),
            Self::Failed => format!("kiln rm {id} clears it away"),
            Self::Deprecated => format!("kiln set {id} --undeprecate"),
            Self::Because(Public) => format!("kiln set {id} --private"),
            Self::Because(Shared) => {
                format!("kiln shares {id} shows with whom; kiln share {id} --revoke ACCOUNT ends it")
            }
            Self::Because(Protected) => format!("kiln set {id} --unprotect"),
            Self::Because(InUse) => {
                format!("kiln show {id} names the instances; destroy them first")
            }
            Self::Because(Busy) => "kiln jobs shows it; wait, or kiln cancel JOB".to_owned(),
            Self::Because(Expired) => format!("kiln set {id} --expires never"),
            Self::Because(Unsound) => {
                "kiln check IMAGE tells what was found; import the disk again from a sound source".to_owned()
            }
            Self::Because(Unaudited) => format!("kiln audit {id} --note TEXT"),
            Self::Hidden | Self::NothingToAccept => return None,
        })
    }
}

impl Relation {
    /// The word, for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Receiver => "receiver",
            Self::Offered => "offered",
            Self::Everyone => "everyone",
            Self::Stranger => "stranger",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table once more, written cell by cell from the rules and not from the code: for each action and
    /// relation the answer in each of the nine states. `.` yes, `-` no such image, `u` unfinished, `f` failed, `d`
    /// deprecated, `a` not accepted, `r` received, `e` not the owner, `n` nothing to accept.
    #[rustfmt::skip]
    const EXPECTED: [(Action, [&str; 5]); 17] = [
        //                     owner        receiver     offered      everyone     stranger
        (Action::See,       ["........-", "---...---", "---...---", "---...---", "---------"]),
        (Action::Verify,    ["uuu...ff-", "---...---", "---...---", "---...---", "---------"]),
        (Action::Read,      ["uuu...ff-", "---...---", "aaaaaaaaa", "---...---", "---------"]),
        (Action::Launch,    ["uuuu..ff-", "---u..---", "aaaaaaaaa", "---u..---", "---------"]),
        (Action::Copy,      ["uuuu.dff-", "---u.d---", "aaaaaaaaa", "---u.d---", "---------"]),
        (Action::Export,    ["uuuu..ff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Accept,    ["nnnnnnnnn", "---u..---", "---u..---", "nnnnnnnnn", "---------"]),
        (Action::Change,    ["uuuu..ff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Tag,       ["uuuu..ff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Deprecate, ["uuuu..ff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Protect,   ["uuu...ff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Audit,     ["uuu...ff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Publish,   ["uuuu.dff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Withdraw,  ["uuu...ff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Share,     ["uuuu.dff-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Revoke,    ["uuu.....-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
        (Action::Delete,    ["uuuu....-", "rrrrrrrrr", "rrrrrrrrr", "eeeeeeeee", "---------"]),
    ];

    const RELATIONS: [Relation; 5] =
        [Relation::Owner, Relation::Receiver, Relation::Offered, Relation::Everyone, Relation::Stranger];

    /// The circumstances that keep the owner of a normal image from an action.
    #[rustfmt::skip]
    const KEPT_BY: [(Circumstance, &[Action]); 8] = [
        (Public, &[Action::Change, Action::Tag, Action::Deprecate, Action::Share, Action::Delete]),
        (Shared, &[Action::Change, Action::Tag, Action::Deprecate, Action::Publish, Action::Delete]),
        (Protected, &[Action::Delete]),
        (InUse, &[Action::Delete]),
        (Busy, &[Action::Delete]),
        (Expired, &[Action::Launch, Action::Copy, Action::Publish, Action::Share]),
        (Unsound, &[Action::Publish]),
        (Unaudited, &[Action::Publish]),
    ];

    fn letter(answer: Result<(), Reason>) -> char {
        match answer {
            Ok(()) => '.',
            Err(Reason::Hidden) => '-',
            Err(Reason::Unfinished) => 'u',
            Err(Reason::Failed) => 'f',
            Err(Reason::Deprecated) => 'd',
            Err(Reason::NotAccepted) => 'a',
            Err(Reason::Received) => 'r',
            Err(Reason::OfEveryone) => 'e',
            Err(Reason::NothingToAccept) => 'n',
            Err(Reason::Because(_)) => '!',
        }
    }

    #[test]
    fn every_cell_of_the_table_is_as_the_rules_say() {
        let mut cells = 0;
        for (action, rows) in EXPECTED {
            for (relation, row) in RELATIONS.into_iter().zip(rows) {
                for (state, expected) in State::ALL.into_iter().zip(row.chars()) {
                    let case = Case { relation, state, circumstances: Vec::new() };
                    let found = letter(decide(action, &case));
                    assert_eq!(found, expected, "{action:?} by {relation:?} of {state:?}");
                    cells += 1;
                }
            }
        }
        assert_eq!(cells, 17 * 5 * 9);
        assert_eq!(Action::all(), EXPECTED.map(|(action, _)| action));
    }

    #[test]
    fn every_circumstance_keeps_from_exactly_its_actions() {
        for (circumstance, kept) in KEPT_BY {
            for action in Action::all() {
                for state in State::ALL {
                    let bare = Case { relation: Relation::Owner, state, circumstances: Vec::new() };
                    let so = Case { circumstances: vec![circumstance], ..bare.clone() };
                    let expected = match decide(action, &bare) {
                        Ok(()) if kept.contains(&action) => Err(Reason::Because(circumstance)),
                        other => other,
                    };
                    assert_eq!(decide(action, &so), expected, "{action:?} of {state:?}, {circumstance:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_but_the_owner_can_do_what_changes_an_image() {
        let changing = [
            Action::Change,
            Action::Tag,
            Action::Deprecate,
            Action::Protect,
            Action::Audit,
            Action::Publish,
            Action::Withdraw,
            Action::Share,
            Action::Revoke,
            Action::Delete,
            Action::Export,
        ];
        for action in changing {
            for relation in RELATIONS.into_iter().skip(1) {
                for state in State::ALL {
                    let case = Case { relation, state, circumstances: Vec::new() };
                    assert!(decide(action, &case).is_err(), "{action:?} by {relation:?}");
                }
            }
        }
    }
}
