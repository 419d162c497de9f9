//! `kiln tree`: which image came from which.

use std::collections::BTreeSet;

use kiln_catalog::{ImageId, Node};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::ShortSize;
use crate::session::Session;
use crate::subject;

/// Draw which image was made from which, and the instances that run from them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    images: Vec<NodeRecord>,
}

#[derive(Serialize)]
struct NodeRecord {
    id: String,
    name: String,
    owner: String,
    parent: Option<String>,
    how: Option<kiln_catalog::OriginKind>,
    layers: Vec<String>,
    instances: Vec<String>,
}

pub(crate) fn run(_args: &Args, session: &mut Session) -> Result<Answer> {
    let nodes = subject::open_store(session)?.lineage()?;
    session.printer.json(&Record { schema: "kiln.tree.v1", images: nodes.iter().map(record).collect() })?;
    let mut drawn = BTreeSet::new();
    for root in nodes.iter().filter(|node| node.parent.is_none()) {
        draw(&nodes, root, "", "", &mut drawn, session);
    }
    Ok(Answer::Yes)
}

/// An image, and below it what was made from it. `first` leads its own line, `rest` the lines below.
fn draw(
    nodes: &[Node],
    node: &Node,
    first: &str,
    rest: &str,
    drawn: &mut BTreeSet<ImageId>,
    session: &mut Session,
) {
    let manifest = &node.image.manifest;
    // Each image has one parent, so a line is drawn once; the set only keeps forged circles from looping.
    if !drawn.insert(manifest.id.clone()) {
        return;
    }
    let how = manifest.origin.as_ref().map_or(String::new(), |origin| match origin.how {
        kiln_catalog::OriginKind::Copy => ", copy".to_owned(),
        kiln_catalog::OriginKind::Capture => ", capture".to_owned(),
        _ => ", from a bundle".to_owned(),
    });
    let layers = match manifest.layers.len() {
        1 => "1 layer".to_owned(),
        several => format!("{several} layers"),
    };
    session.printer.data(&format!(
        "{first}{} {} ({}{how}, {layers}, {})",
        manifest.title(),
        manifest.id,
        node.image.record.owner,
        ShortSize(manifest.stored_bytes())
    ));
    let children: Vec<&Node> =
        nodes.iter().filter(|other| other.parent.as_ref() == Some(&manifest.id)).collect();
    let count = children.len() + node.instances.len();
    for (number, instance) in node.instances.iter().enumerate() {
        let corner = if number + 1 == count { "└─ " } else { "├─ " };
        session.printer.data(&format!("{rest}{corner}instance {instance}"));
    }
    for (number, child) in children.into_iter().enumerate() {
        let last = number + node.instances.len() + 1 == count;
        let (corner, bar) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(nodes, child, &format!("{rest}{corner}"), &format!("{rest}{bar}"), drawn, session);
    }
}

fn record(node: &Node) -> NodeRecord {
    let manifest = &node.image.manifest;
    NodeRecord {
        id: manifest.id.to_string(),
        name: manifest.title(),
        owner: node.image.record.owner.to_string(),
        parent: node.parent.as_ref().map(ToString::to_string),
        how: manifest.origin.as_ref().map(|origin| origin.how),
        layers: manifest.layers.iter().map(|layer| layer.digest.to_string()).collect(),
        instances: node.instances.clone(),
    }
}
