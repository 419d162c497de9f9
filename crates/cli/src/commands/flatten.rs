//! `kiln flatten`: one layer in place of several.

use kiln_import::LayerStyle;
use serde::Serialize;

use crate::error::{About, Answer, Result};
use crate::output::Size;
use crate::session::Session;
use crate::subject;

/// Join the layers of an image to one; its id, digests and life stay
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Flatten this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Store the layer in this style [default: plain]
    #[arg(long, value_name = "plain|zstd")]
    style: Option<LayerStyle>,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    name: String,
    layers_before: usize,
    layers: usize,
    stored_bytes: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    let before = &found.manifest;
    let title = before.title();
    let after = if before.layers.len() > 1 {
        let style = args.style.unwrap_or_default();
        kiln_import::flatten(&found.store, before, style, &session.reporter).about(&title)?
    } else {
        before.clone()
    };
    session.reporter.clear();
    let record = Record {
        schema: "kiln.flatten.v1",
        id: after.id.to_string(),
        name: title,
        layers_before: before.layers.len(),
        layers: after.layers.len(),
        stored_bytes: after.stored_bytes(),
    };
    session.printer.json(&record)?;
    let text = format!(
        "{} {}: {} layers to {}, {}",
        record.id,
        record.name,
        record.layers_before,
        record.layers,
        Size(record.stored_bytes)
    );
    session.printer.field("flattened", text);
    Ok(Answer::Yes)
}
