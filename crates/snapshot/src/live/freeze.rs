//! The guest's file systems stand still for as long as the point in time takes, and never longer than allowed.

use std::time::{Duration, Instant};

use kiln_catalog::FreezeRecord;
use kiln_qemu::agent::Freeze;

use super::monitor::{Address, Guest};
use super::watch::{State, Watchdog};
use crate::error::{Error, Refusal, Result};
use crate::request::Quiesce;
use crate::state::Quieted;

/// How long to try to thaw, when the agent does not answer at once.
const THAW: Duration = Duration::from_secs(60);

/// A guest that may be frozen.
pub(crate) enum Guard {
    /// It runs on; why.
    Running(String),
    /// It stands still.
    Frozen(Box<Frozen>),
}

pub(crate) struct Frozen {
    address: Address,
    guest: Option<Box<dyn Guest>>,
    began: Instant,
    limit: Duration,
    version: String,
    programs: bool,
    count: u64,
    /// The agent has answered everything that it was asked: its next answer is to the next question.
    in_step: bool,
    thawed: bool,
}

/// Freezes, as asked.
///
/// # Errors
/// [`Refusal::NotQuiesced`], when that was required.
pub(crate) fn freeze(
    agent: Option<&Address>,
    quiesce: Quiesce,
    limit: Duration,
    watchdog: &mut Watchdog,
) -> Result<Guard> {
    let tried = match (quiesce, agent) {
        (Quiesce::None, _) => {
            return Ok(Guard::Running("nobody asked the guest (--quiesce none)".to_owned()));
        }
        (_, None) => Err("the machine has no channel to a guest agent that is known here".to_owned()),
        (_, Some(address)) => try_freeze(address, limit, watchdog)?,
    };
    match tried {
        Ok(frozen) => Ok(Guard::Frozen(Box::new(frozen))),
        Err(why) if quiesce == Quiesce::Require => Err(Refusal::NotQuiesced { why }.into()),
        Err(why) => Ok(Guard::Running(why)),
    }
}

/// The inner error is why the guest goes on; the outer one that it may stand still for ever.
fn try_freeze(address: &Address, limit: Duration, watchdog: &mut Watchdog) -> Result<Result<Frozen, String>> {
    let said = |error: &dyn std::fmt::Display| format!("the guest's agent did not freeze it: {error}");
    let mut guest = match address.agent() {
        Ok(guest) => guest,
        Err(error) => return Ok(Err(format!("the guest's agent does not answer: {error}"))),
    };
    let version = match guest.introduce() {
        Ok((version, true)) => version,
        Ok((version, false)) => return Ok(Err(format!("the guest's agent ({version}) may not freeze"))),
        Err(error) => return Ok(Err(said(&error))),
    };
    match guest.status() {
        Ok(Freeze::Thawed) => {}
        // Whoever froze it will want it frozen.
        Ok(Freeze::Frozen) => return Ok(Err("the guest had been frozen by somebody else".to_owned())),
        Err(error) => return Ok(Err(said(&error))),
    }
    let programs = guest.system().as_deref() == Some("mswindows");
    watchdog.tell(State::Freezing)?;
    let began = Instant::now();
    guest.limit(limit);
    let answer = guest.freeze();
    let mut frozen = Frozen {
        address: address.clone(),
        guest: Some(guest),
        began,
        limit,
        version,
        programs,
        count: 0,
        in_step: answer.is_ok(),
        thawed: false,
    };
    match answer {
        Ok(count) if count > 0 => {
            frozen.count = count;
            Ok(Ok(frozen))
        }
        Ok(_) => {
            frozen.thaw(watchdog)?;
            Ok(Err("the guest's agent found no file system to freeze".to_owned()))
        }
        // It may have happened all the same.
        Err(error) => {
            frozen.thaw(watchdog)?;
            Ok(Err(said(&error)))
        }
    }
}

impl Frozen {
    /// What is left of the time that is allowed.
    pub(crate) fn rest(&self) -> Duration {
        self.limit.saturating_sub(self.began.elapsed())
    }

    /// Thaws; answers whether the file systems had stood still until then, and how long.
    fn thaw(&mut self, watchdog: &mut Watchdog) -> Result<(bool, Duration)> {
        let still = match self.guest.as_mut() {
            Some(guest) if self.in_step => {
                guest.limit(Duration::from_secs(2).min(self.limit));
                matches!(guest.status(), Ok(Freeze::Frozen))
            }
            _ => false,
        };
        self.thawed = thaw(&self.address, self.guest.take(), THAW);
        let took = self.began.elapsed();
        if !self.thawed {
            return Err(Refusal::NotQuiesced {
                why: "its agent does not answer any more, and the guest may stand still: thaw it by hand \
                      (guest-fsfreeze-thaw)"
                    .to_owned(),
            }
            .into());
        }
        watchdog.tell(State::Thawed)?;
        Ok((still, took))
    }
}

impl Guard {
    /// What is left of the time that is allowed.
    pub(crate) fn rest(&self) -> Option<Duration> {
        match self {
            Self::Running(_) => None,
            Self::Frozen(frozen) => Some(frozen.rest()),
        }
    }

    /// Lets the guest go on, and says what was proved.
    ///
    /// # Errors
    /// [`Refusal::NotQuiesced`] when it was required and cannot be proved, or when the guest may stand still.
    pub(crate) fn release(
        self,
        quiesce: Quiesce,
        watchdog: &mut Watchdog,
    ) -> Result<(Quieted, Option<FreezeRecord>, Option<Duration>)> {
        let mut frozen = match self {
            Self::Running(why) => return Ok((Quieted::Running(why), None, None)),
            Self::Frozen(frozen) => frozen,
        };
        let (still, took) = frozen.thaw(watchdog)?;
        let record = FreezeRecord {
            agent: frozen.version.clone(),
            file_systems: frozen.count,
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        if still {
            let (file_systems, programs) = (frozen.count, frozen.programs);
            return Ok((Quieted::Frozen { file_systems, programs }, Some(record), Some(took)));
        }
        let why = "the agent froze the guest, but not until behind the point in time".to_owned();
        if quiesce == Quiesce::Require {
            return Err(Refusal::NotQuiesced { why }.into());
        }
        Ok((Quieted::Running(why), Some(record), Some(took)))
    }
}

impl Drop for Frozen {
    /// On every way out.
    fn drop(&mut self) {
        if !self.thawed {
            self.thawed = thaw(&self.address, self.guest.take(), THAW);
        }
    }
}

/// Thaws until the guest's agent says that nothing stands still, over new connections when one is of no use.
pub(crate) fn thaw(address: &Address, mut guest: Option<Box<dyn Guest>>, patience: Duration) -> bool {
    let began = Instant::now();
    loop {
        let mut one = match guest.take() {
            Some(guest) => Ok(guest),
            None => address.agent(),
        };
        if let Ok(guest) = one.as_mut() {
            guest.limit(Duration::from_secs(5));
            // An answer that comes late is not the answer to this: neither is believed without a new beginning.
            let asked = guest.resync().and_then(|()| guest.thaw());
            if matches!(guest.resync().and_then(|()| guest.status()), Ok(Freeze::Thawed)) && asked.is_ok() {
                return true;
            }
        }
        // A machine that is gone stands still for other reasons.
        if matches!(&one, Err(Error::Qemu(error)) if error.is_gone()) {
            return true;
        }
        drop(one);
        if began.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
