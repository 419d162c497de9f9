//! `kiln usage`: who takes how much.

use kiln_catalog::{AccountUsage, ImageUsage};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::{Align, ShortSize, Table};
use crate::session::Session;
use crate::subject;

/// Show how much images and accounts take, and what that costs
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
ALONE is what removing the image would free; SHARED it has together with other images. A cost is the bytes
an image or an account takes alone, at the price of a GiB for a month.

Examples:
  kiln usage
  kiln usage --price 0.02 --json")]
pub(crate) struct Args {
    /// Price of a GiB for a month [default: the setting price]
    #[arg(long, value_name = "PRICE")]
    price: Option<String>,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    images: Vec<Costed<&'a ImageUsage>>,
    accounts: Vec<Costed<&'a AccountUsage>>,
    price_per_gib_month: Option<f64>,
}

#[derive(Serialize)]
struct Costed<T> {
    #[serde(flatten)]
    usage: T,
    cost_per_month: Option<f64>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let flags: Vec<(&str, String)> = args.price.iter().map(|price| ("price", price.clone())).collect();
    let price = subject::settings(session, &flags)?.price();
    let (images, accounts) = subject::open_store(session)?.usage()?;
    let cost = |bytes: u64| price.map(|price| kiln_catalog::monthly_cost(bytes, price));
    session.printer.json(&Record {
        schema: "kiln.usage.v1",
        images: images.iter().map(|usage| Costed { usage, cost_per_month: cost(usage.own_bytes) }).collect(),
        accounts: accounts
            .iter()
            .map(|usage| Costed { usage, cost_per_month: cost(usage.own_bytes) })
            .collect(),
        price_per_gib_month: price,
    })?;
    let columns = [
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("OWNER", Align::Left),
        ("VIRTUAL", Align::Right),
        ("ALONE", Align::Right),
        ("SHARED", Align::Right),
        ("COST", Align::Right),
    ];
    let mut table = Table::new(if price.is_some() { &columns } else { &columns[..6] });
    let cells = |id: String, name: String, owner: String, sizes: [u64; 3]| {
        let mut cells = vec![id, name, owner];
        cells.extend(sizes.map(|bytes| ShortSize(bytes).to_string()));
        cells.extend(cost(sizes[1]).map(|cost| format!("{cost:.4}")));
        cells
    };
    for usage in &images {
        let sizes = [usage.disk_bytes, usage.own_bytes, usage.shared_bytes];
        table.row(cells(usage.id.to_string(), usage.title.clone(), usage.owner.to_string(), sizes));
    }
    for usage in &accounts {
        let sizes = [usage.disk_bytes, usage.own_bytes, usage.shared_bytes];
        let name = format!("{} images", usage.images);
        table.row(cells("all".to_owned(), name, usage.account.to_string(), sizes));
    }
    for line in table.lines() {
        session.printer.data(&line);
    }
    Ok(Answer::Yes)
}
