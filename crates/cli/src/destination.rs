//! A look at the place to write to, before any work is done.

use std::path::{Path, PathBuf};

use kiln_disk::Error as DiskError;

use crate::error::{CliError, Result};
use crate::input::is_dash;

/// A place that may be written to.
#[derive(Debug)]
pub(crate) struct Place {
    /// The file to make; a symbolic link is followed, so that its target is replaced and not the link.
    pub(crate) path: PathBuf,
    /// As the user named it.
    pub(crate) label: String,
    /// Whether a file is there that will be replaced.
    pub(crate) exists: bool,
}

impl Place {
    /// The directory that will hold the file.
    pub(crate) fn parent(&self) -> &Path {
        self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

/// Looks at `dest`. The look is a courtesy that saves work: the commit refuses an existing name by itself.
pub(crate) fn look(dest: &Path, force: bool) -> Result<Place> {
    if is_dash(dest) {
        return Ok(Place { path: dest.to_owned(), label: "standard output".to_owned(), exists: false });
    }
    let label = dest.display().to_string();
    let found = match std::fs::symlink_metadata(dest) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Place { path: dest.to_owned(), label, exists: false });
        }
        Err(source) => return Err(DiskError::io("look at", label, source).into()),
    };
    if !force {
        return Err(CliError::CannotDo {
            code: "io.exists",
            what: format!("{label} is already there"),
            path: Some(label),
            hint: "choose another name, or add --force to replace it once the new file is complete"
                .to_owned(),
        });
    }
    let path = if found.is_symlink() {
        std::fs::canonicalize(dest).map_err(|source| DiskError::io("follow", &label, source))?
    } else {
        dest.to_owned()
    };
    let kind = std::fs::metadata(&path).map_err(|source| DiskError::io("look at", &label, source))?;
    if !kind.is_file() {
        return Err(CliError::cannot(
            "destination.kind",
            format!("{label} is no regular file"),
            "name a file; for a device, write to standard output: kiln convert -O raw SRC - | dd of=DEVICE bs=1M",
        ));
    }
    Ok(Place { path, label, exists: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_names_are_refused_without_force_and_links_are_followed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.raw");
        let link = dir.path().join("link");
        assert!(!look(&file, false).unwrap().exists);
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(look(&file, false).unwrap_err().code(), "io.exists");
        assert_eq!(look(&link, false).unwrap_err().code(), "io.exists");
        let place = look(&link, true).unwrap();
        assert_eq!(place.path, std::fs::canonicalize(&file).unwrap());
        assert!(place.exists);
        assert_eq!(look(dir.path(), true).unwrap_err().code(), "destination.kind");
        assert_eq!(look(Path::new("/dev/null"), true).unwrap_err().code(), "destination.kind");
    }
}
