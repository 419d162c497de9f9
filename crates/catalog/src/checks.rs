//! Everything that can be found wrong in a store.

use kiln_disk::{CheckSpec, Severity};

macro_rules! checks {
    ($($name:ident $id:literal $severity:ident $summary:literal $effect:literal $fix:literal;)*) => {
        $(#[doc = $summary]
        pub static $name: CheckSpec = CheckSpec {
            id: $id, severity: Severity::$severity, summary: $summary, effect: $effect, fix: $fix,
        };)*
        /// All of them.
        pub static ALL: &[&CheckSpec] = &[$(&$name),*];
    };
}

checks! {
    INDEX_MISSING "store.index.missing" Fatal
        "The index is missing."
        "No image can be found, though all are there."
        "kiln store rebuild";
    INDEX_DAMAGED "store.index.damaged" Fatal
        "The index is damaged."
        "Images may not be found, though all are there."
        "kiln store rebuild";
    INDEX_FOREIGN "store.index.foreign" Fatal
        "catalog.sqlite is a database of another program."
        "No image can be found, though all are there."
        "kiln store rebuild (the file is kept aside)";
    INDEX_VERSION "store.index.version" Fatal
        "The index was written by another version of Kiln."
        "This version cannot use the store."
        "use the newer kiln";
    MANIFEST_DAMAGED "store.manifest.damaged" Fatal
        "The manifest of an image is damaged or missing."
        "What is known about the image is doubtful; a rebuild of the index would lose it."
        "restore the manifest from a backup, or kiln rm the image";
    SIGNATURE_BAD "store.signature.bad" Fatal
        "A signature of the image is not valid."
        "Somebody changed the image's record or its signatures; whose image it is cannot be told."
        "restore images/<id>/ from a backup, or sign the image again after a look at it";
    MANIFEST_MISSING "store.manifest.missing" Fatal
        "The index lists an image that has no manifest."
        "A rebuild of the index would lose the image."
        "restore images/<id>/manifest.json from a backup, or kiln rm the image";
    ROW_MISSING "store.row.missing" Damage
        "An image is not in the index."
        "The image cannot be found."
        "kiln store rebuild";
    ROW_DIFFERS "store.row.differs" Damage
        "The index says something else about an image than its manifest."
        "Listings are wrong."
        "kiln store rebuild";
    NAME_TWICE "store.name.duplicate" Damage
        "Two images claim one name and tag."
        "Only one of them is found by it."
        "kiln rm one of them by its id";
    LAYER_MISSING "store.layer.missing" Fatal
        "A layer of an image is missing."
        "The image cannot be read."
        "import the disk again: the same content brings the layer back";
    LAYER_LENGTH "store.layer.length" Fatal
        "A layer has another length than its manifest says."
        "Part of the image is lost."
        "import the disk again: the same content replaces the damaged layer";
    LAYER_DIGEST "store.layer.digest" Fatal
        "The bytes of a layer are not the ones that its name stands for."
        "Part of the image is damaged."
        "kiln verify IMAGE names the damaged blocks; import the disk again to replace them";
    LAYER_UNREADABLE "store.layer.unreadable" Fatal
        "A layer cannot be read as a disk."
        "The image cannot be read."
        "import the disk again: the same content replaces the damaged layer";
    LEAVES_MISSING "store.leaves.missing" Damage
        "The list of block hashes of a layer is missing."
        "Damage can be seen, but not told to the block."
        "import the disk again";
    LEAVES_DAMAGED "store.leaves.damaged" Damage
        "The list of block hashes of a layer is damaged."
        "Damage of the layer can be seen, but not told to the block."
        "import the disk again";
    CONTENT_BLOCKS "store.content.blocks" Damage
        "Blocks of the disk are not the ones that were imported."
        "The guest reads wrong data there."
        "import the disk again, or restore these bytes from a backup";
    CONTENT_DIGEST "store.content.digest" Damage
        "The disk has another content digest than its manifest says."
        "The guest reads wrong data somewhere."
        "import the disk again";
    LAYER_UNREFERENCED "store.layer.unreferenced" Waste
        "A layer belongs to no image."
        "Its space is lost."
        "kiln store fsck --repair";
    STAGING_LEFT "store.staging.leftover" Waste
        "A command that died left files that could not be cleared away."
        "Their space is lost."
        "look at the reason, then run any kiln command on the store";
    STRAY "store.stray" Advice
        "A file does not belong into the store."
        "None: Kiln never touches it."
        "move it out of the store's directory";
    MODE "store.mode" Advice
        "Other users of this machine may look into the store."
        "They can read, or even change, what is in the images."
        "chmod go= the store's directory";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_of_the_store() {
        let mut ids: Vec<_> = ALL.iter().map(|check| check.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
        assert!(ids.iter().all(|id| id.starts_with("store.")));
    }
}
