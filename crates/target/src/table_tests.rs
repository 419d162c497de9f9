use super::*;
use crate::row::{Firmware, Pack, Severity};
use crate::size::ByteSize;

fn builtin() -> Targets {
    Targets::builtin().unwrap()
}

fn with(text: &str) -> Result<Targets> {
    builtin().with_file("my.toml", text)
}

#[test]
fn every_row_is_read_and_every_rule_has_its_source_and_its_date() {
    let targets = builtin();
    let ids: Vec<&str> = targets.rows().iter().map(|row| row.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "tencent",
            "aws",
            "azure",
            "gcp",
            "alibaba",
            "openstack",
            "kvm",
            "proxmox",
            "hyper-v",
            "vmware",
            "vsphere-legacy",
            "virtualbox",
            "digitalocean",
            "oracle",
            "hetzner"
        ]
    );
    for row in targets.rows() {
        let dated = |source: &str, date: &str| {
            assert!(!source.is_empty() && !source.starts_with("rows/"), "{}: {source}", row.id);
            // A page that tells only its year has no month here.
            let (year, month) = date.split_once('-').unwrap_or((date, "1"));
            assert!((2000..2100).contains(&year.parse::<u32>().unwrap()), "{}: {date}", row.id);
            assert!((1..=12).contains(&month.parse::<u32>().unwrap()), "{}: {date}", row.id);
        };
        row.outputs.iter().for_each(|output| dated(&output.source, &output.date));
        row.limits.rules().for_each(|(_, rule)| dated(&rule.source, &rule.date));
        row.naming.iter().for_each(|rule| dated(&rule.source, &rule.date));
        dated(&row.firmware.source, &row.firmware.date);
        row.guest.values().for_each(|rule| dated(&rule.source, &rule.date));
        row.findings.values().for_each(|rule| dated(&rule.source, &rule.date));
        row.notes.iter().for_each(|note| dated(&note.source, &note.date));
        assert!(!row.next.is_empty(), "{}", row.id);
        // What is not confirmed does not block.
        for (name, rule) in row.limits.rules() {
            let is_sure = !rule.source.contains("not confirmed");
            assert!(is_sure || rule.severity == Severity::Warn, "{} {name}", row.id);
        }
    }
}

#[test]
fn rows_say_what_their_targets_want() {
    let targets = builtin();
    let azure = targets.find("azure").unwrap();
    assert_eq!(azure.outputs[0].options["subformat"], "fixed");
    assert_eq!(azure.limits.disk_multiple.as_ref().unwrap().value.get(), 1 << 20);
    assert_eq!(targets.find("gce").unwrap().outputs[0].pack, Pack::OldgnuTarGz);
    assert_eq!(targets.find("vsphere").unwrap().id, "vmware");
    let sums: Vec<(&str, &str)> = targets
        .rows()
        .iter()
        .filter_map(|row| Some((row.id.as_str(), row.outputs[0].options.get("manifest")?.as_str())))
        .collect();
    assert_eq!(sums, [("vmware", "sha256"), ("vsphere-legacy", "sha1")]);
    assert_eq!(targets.find("tencent").unwrap().guest["part.gpt-bios"].severity, Severity::Refuse);
    let error = targets.find("nosuch").unwrap_err();
    assert_eq!(error.code(), "target.unknown");
    assert!(error.hint().contains("azure"));
}

#[test]
fn a_file_changes_a_limit_and_leaves_the_rest() {
    let targets = with("[target.azure.limits]\nmax_disk = \"2T\"\n").unwrap();
    let (azure, before) = (targets.find("azure").unwrap().clone(), builtin().find("azure").unwrap().clone());
    let rule = azure.limits.max_disk.clone().unwrap();
    assert_eq!((rule.value.get(), rule.source.as_str(), rule.date.as_str()), (2 << 40, "my.toml", ""));
    let mut expected = before;
    expected.limits.max_disk = Some(rule);
    assert_eq!(azure, expected);
}

#[test]
fn a_rule_of_the_file_brings_its_own_source_and_severity() {
    let text = "[target.gcp.limits.max_disk]\nvalue = 5000\nseverity = \"warn\"\nsource = \"our contract\"\n\
                [target.tencent.guest.\"part.gpt-bios\"]\nseverity = \"off\"\n";
    let targets = with(text).unwrap();
    let rule = targets.find("gcp").unwrap().limits.max_disk.clone().unwrap();
    assert_eq!((rule.value, rule.severity), (ByteSize::parse("5000").unwrap(), Severity::Warn));
    assert_eq!((rule.source.as_str(), rule.date.as_str()), ("our contract", ""));
    let rule = &targets.find("tencent").unwrap().guest["part.gpt-bios"];
    assert_eq!((rule.severity, rule.source.as_str(), rule.why.as_str()), (Severity::Off, "my.toml", ""));
    assert_eq!(targets.find("tencent").unwrap().guest["part.gpt"].severity, Severity::Warn);
}

#[test]
fn a_new_target_stands_on_another() {
    let text = "[target.lab]\nbase = \"libvirt\"\nname = \"Our lab\"\naliases = [\"cellar\"]\n\
                next = [\"scp @file@ lab:/images/@file_name@\"]\n\
                firmware = { accepts = [\"uefi\"], prefers = \"uefi\" }\n[target.lab.limits]\nmax_disk = \"40G\"\n";
    let targets = with(text).unwrap();
    let lab = targets.find("cellar").unwrap();
    assert_eq!((lab.id.as_str(), lab.name.as_str()), ("lab", "Our lab"));
    assert_eq!(lab.outputs, targets.find("kvm").unwrap().outputs);
    assert_eq!(lab.firmware.accepts, [Firmware::Uefi]);
    assert_eq!(targets.rows().last().unwrap().id, "lab");
    // A row may stand on one of the same file; it is not called as its base.
    let text = "[target.a]\nbase = \"azure\"\nname = \"A\"\n[target.b]\nbase = \"a\"\nname = \"B\"\n";
    let targets = with(text).unwrap();
    assert_eq!(targets.find("b").unwrap().limits, targets.find("azure").unwrap().limits);
    assert_eq!(with("[target.v]\nbase = \"vmware\"\n").unwrap().find("esxi").unwrap().id, "vmware");
}

#[test]
fn what_no_row_can_say_is_an_error_with_its_place() {
    let row = "name = \"x\"\nfirmware = { accepts = [\"bios\"], prefers = \"bios\" }\n";
    let output = "[[target.x.output]]\nformat = \"raw\"\nendings = [\".raw\"]\n";
    let full = |rest: &str| format!("[target.x]\n{row}{rest}{output}");
    assert!(with(&full("")).is_ok());
    for (text, code, words) in [
        ("[target.azure".to_owned(), "targets.syntax", "line 1"),
        ("[targets.azure]".to_owned(), "targets.syntax", "unknown field `targets`"),
        ("[target.azure.limits]\nmax_dsk = \"1G\"".to_owned(), "targets.row", "unknown field `max_dsk`"),
        ("[target.azure]\ncolour = 1".to_owned(), "targets.row", "unknown field `colour`"),
        ("[target.azure.limits]\nmax_disk = \"1 G\"".to_owned(), "targets.row", "a size above zero"),
        ("[target.azure.limits]\nmax_disk = 0".to_owned(), "targets.row", "a size above zero"),
        ("[target.azure.limits]\nmax_disk = { valu = 1 }".to_owned(), "targets.row", "unknown field `valu`"),
        ("[target.x]\nbase = \"nosuch\"".to_owned(), "targets.base", ""),
        ("[target.x]\nbase = 1".to_owned(), "targets.incomplete", ""),
        ("[target.x]\nname = \"x\"".to_owned(), "targets.row", "missing field"),
        ("[target.\"../x\"]\nbase = \"kvm\"".to_owned(), "targets.incomplete", ""),
        ("[target]\nx = 1".to_owned(), "targets.incomplete", ""),
        ("[target.x]\nbase = \"kvm\"\naliases = [\"azure\"]".to_owned(), "targets.name", ""),
        ("[target.kvm]\noutput = []".to_owned(), "targets.incomplete", ""),
        ("[target.kvm]\nnext = [\"@nosuch@\"]".to_owned(), "targets.incomplete", ""),
        ("[target.kvm.words]\na = { bios = \"@file@\", uefi = \"\" }".to_owned(), "targets.incomplete", ""),
        (full("").replace("\".raw\"", "\"raw\""), "targets.incomplete", ""),
        (full("").replace("prefers = \"bios\"", "prefers = \"uefi\""), "targets.incomplete", ""),
        (
            format!(
                "{}[[target.x.side_file]]\nname = \"../x\"\npurpose = \"\"\nescape = \"json\"\ntext = \"\"",
                full("")
            ),
            "targets.incomplete",
            "",
        ),
    ] {
        let error = with(&text).unwrap_err();
        assert_eq!(error.code(), code, "{text}: {error}");
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(source.contains(words), "{text}: {source}");
        assert!(!error.hint().is_empty());
    }
}

#[test]
fn an_empty_file_changes_nothing() {
    assert_eq!(with("").unwrap(), builtin());
}

#[test]
fn a_file_says_how_bad_a_finding_is_and_leaves_the_others() {
    let targets = with("[target.kvm.finding.\"agent.qga\"]\nseverity = \"hygiene\"\n").unwrap();
    let kvm = targets.find("kvm").unwrap();
    let rule = &kvm.findings["agent.qga"];
    assert_eq!((rule.severity, rule.source.as_str()), (crate::Impact::Hygiene, "my.toml"));
    assert_eq!(kvm.findings["cloudinit.present"].severity, crate::Impact::Advice);
    let tencent = &targets.find("tencent").unwrap().findings["kmod.virtio"];
    assert_eq!(tencent.severity, crate::Impact::RejectedAtImport);
    assert!(with("[target.kvm.finding.\"agent.qga\"]\nseverity = \"bad\"\n").is_err());
}
