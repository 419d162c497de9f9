//! The conversation before the first request.

use crate::channel::Channel;
use crate::error::{Error, Problem, Result};

/// `NBDMAGIC`.
const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, of the newstyle greeting and before every option.
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before every answer to an option.
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_C_FIXED_NEWSTYLE: u32 = 1;
const FLAG_C_NO_ZEROES: u32 = 2;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_FLAG_ERROR: u32 = 1 << 31;

const INFO_EXPORT: u16 = 0;

/// The longest answer to an option: names are at most 4096 bytes, messages too.
const MAX_OPTION_REPLY: u32 = 64 << 10;
/// The most answers to one option.
const MAX_OPTION_REPLIES: usize = 64;

/// What was agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Length of the export in bytes.
    pub(super) len: u64,
    /// Ids of the contexts that were asked for, in that order; `None` where the server has no such context.
    pub(super) contexts: Vec<Option<u32>>,
}

/// Asks for `export` with `contexts`.
pub(super) fn negotiate(channel: &mut Channel, export: &str, contexts: &[&str]) -> Result<Agreed> {
    expect_u64(channel, "the greeting", INIT_PASSWD)?;
    expect_u64(channel, "the newstyle greeting", OPTION_MAGIC)?;
    if u16_be(channel)? & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(unsupported(channel, "fixed newstyle negotiation"));
    }
    channel.send(&(FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES).to_be_bytes())?;

    option(channel, OPT_STRUCTURED_REPLY, &[])?;
    replies(channel, OPT_STRUCTURED_REPLY, "structured replies", |_, _, _| Ok(()))?;

    let mut ids = vec![None; contexts.len()];
    if !contexts.is_empty() {
        let mut data = string(export);
        data.extend(u32::try_from(contexts.len()).unwrap_or(u32::MAX).to_be_bytes());
        for context in contexts {
            data.extend(string(context));
        }
        option(channel, OPT_SET_META_CONTEXT, &data)?;
        replies(channel, OPT_SET_META_CONTEXT, "metadata contexts", |channel, kind, data| {
            let (Some(id), Some(name)) = (data.first_chunk(), data.get(4..)) else {
                return Err(channel.malformed(Problem::Field { field: "context id" }));
            };
            if kind == REP_META_CONTEXT {
                for (context, slot) in contexts.iter().zip(&mut ids) {
                    if context.as_bytes() == name {
                        *slot = Some(u32::from_be_bytes(*id));
                    }
                }
            }
            Ok(())
        })?;
    }

    let mut data = string(export);
    data.extend(0_u16.to_be_bytes());
    option(channel, OPT_GO, &data)?;
    let mut len = None;
    replies(channel, OPT_GO, "such an export", |channel, kind, data| {
        let kind_of_info = data.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        if kind == REP_INFO && kind_of_info == Some(INFO_EXPORT) {
            let size = data.get(2..).and_then(<[u8]>::first_chunk);
            let size = size.ok_or_else(|| channel.malformed(Problem::Field { field: "export size" }))?;
            len = Some(u64::from_be_bytes(*size));
        }
        Ok(())
    })?;
    let len = len.ok_or_else(|| channel.malformed(Problem::Field { field: "export size" }))?;
    Ok(Agreed { len, contexts: ids })
}

fn option(channel: &mut Channel, option: u32, data: &[u8]) -> Result<()> {
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend(option.to_be_bytes());
    message.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend(data);
    channel.send(&message)
}

/// Takes the answers to an option up to its acknowledgement; `each` gets the others.
fn replies(
    channel: &mut Channel,
    asked: u32,
    feature: &'static str,
    mut each: impl FnMut(&Channel, u32, &[u8]) -> Result<()>,
) -> Result<()> {
    for _ in 0..MAX_OPTION_REPLIES {
        expect_u64(channel, "the magic of an option's answer", OPTION_REPLY_MAGIC)?;
        let answered = u32_be(channel)?;
        expect(channel, "the option that is answered", answered.into(), asked.into())?;
        let kind = u32_be(channel)?;
        let len = u32_be(channel)?;
        if len > MAX_OPTION_REPLY {
            return Err(channel.malformed(Problem::Range {
                field: "an option's answer",
                found: len.into(),
                allowed: MAX_OPTION_REPLY.into(),
            }));
        }
        let mut data = vec![0; usize::try_from(len).unwrap_or_default()];
        channel.receive_exact(&mut data)?;
        match kind {
            REP_ACK => return Ok(()),
            kind if kind & REP_FLAG_ERROR != 0 => return Err(unsupported(channel, feature)),
            kind => each(channel, kind, &data)?,
        }
    }
    Err(channel.malformed(Problem::Field { field: "end of an option's answers" }))
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn unsupported(channel: &Channel, feature: &str) -> Error {
    Error::Unsupported { peer: channel.peer().to_owned(), feature: feature.to_owned() }
}

pub(super) fn expect(channel: &Channel, field: &'static str, found: u64, expected: u64) -> Result<()> {
    if found == expected { Ok(()) } else { Err(channel.malformed(Problem::Value { field, found, expected })) }
}

pub(super) fn expect_u64(channel: &mut Channel, field: &'static str, expected: u64) -> Result<()> {
    let found = u64_be(channel)?;
    expect(channel, field, found, expected)
}

pub(super) fn u16_be(channel: &mut Channel) -> Result<u16> {
    let mut bytes = [0; 2];
    channel.receive_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

pub(super) fn u32_be(channel: &mut Channel) -> Result<u32> {
    let mut bytes = [0; 4];
    channel.receive_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

pub(super) fn u64_be(channel: &mut Channel) -> Result<u64> {
    let mut bytes = [0; 8];
    channel.receive_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
