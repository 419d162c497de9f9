//! Words of the command line that name a file or an image of the store.
//!
//! A word with a slash is a file; so is one with a dot that is there, and `-` is standard input. Any other word is
//! looked for in both places, and being in both is an error that shows both readings: a guess would sooner or
//! later verify the wrong disk.

use std::path::{Path, PathBuf};

use kiln_catalog::rights::Action;
use kiln_catalog::settings::{Settings, default_file};
use kiln_catalog::{Image, Manifest, Places, Record, Relation, Store, locate};

use crate::error::{CliError, Result};
use crate::input::{Input, SourceArgs, is_dash};
use crate::session::Session;

/// What a word turned out to be.
pub(crate) enum Subject {
    /// A file, or standard input.
    File(PathBuf),
    /// An image of the store.
    Image(Box<StoredImage>),
}

/// An image of the store.
#[derive(Clone)]
pub(crate) struct StoredImage {
    pub(crate) store: Store,
    pub(crate) manifest: Manifest,
    pub(crate) record: Record,
    pub(crate) relation: Relation,
}

impl StoredImage {
    /// What the rights table says.
    pub(crate) fn permit(&self, action: Action) -> Result<()> {
        let (manifest, record) = (self.manifest.clone(), self.record.clone());
        Ok(self.store.permit(action, &Image { manifest, record, relation: self.relation })?)
    }
}

impl Subject {
    /// Looks the word up. A store is only opened for words that may be images, and never made.
    pub(crate) fn resolve(word: &Path, session: &Session) -> Result<Self> {
        let file = || Ok(Self::File(word.to_owned()));
        let text = word.to_string_lossy();
        let exists = word.symlink_metadata().is_ok();
        if is_dash(word) || text.contains('/') || (text.contains('.') && exists) {
            return file();
        }
        match (find(&text, session), exists) {
            (Ok(image), false) => Ok(Self::Image(Box::new(image))),
            (Ok(image), true) => Err(CliError::cannot(
                "name.ambiguous",
                format!(
                    "{text:?} is a file here, and the image {} ({})",
                    image.manifest.title(),
                    image.manifest.id
                ),
                format!("write ./{text} for the file, {} for the image", image.manifest.id),
            )),
            (Err(_), true) => file(),
            // It looks like the name of a file, and that is the likelier slip.
            (Err(error), false) if text.contains('.') && is_absence(&error) => file(),
            (Err(error), false) if is_absence(&error) => Err(CliError::cannot(
                "name.not-found",
                format!("{text:?} is neither a file here nor an image of the store"),
                "kiln ls lists the images; a file in another place needs its path",
            )),
            (Err(error), false) => Err(error),
        }
    }

    /// The file to read: of an image, its uppermost layer, with the format that the manifest says.
    pub(crate) fn open(&self, args: &SourceArgs, session: &Session) -> Result<(Input, SourceArgs)> {
        match self {
            Self::File(path) => Ok((Input::open_or_stdin(path, None, &session.reporter)?, args.clone())),
            Self::Image(image) => {
                image.permit(Action::Read)?;
                Input::stored(image)
            }
        }
    }
}

/// The settings: file, environment, command line.
pub(crate) fn settings(session: &Session, more: &[(&str, String)]) -> Result<Settings> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let named = session.config.clone().or_else(|| set("KILN_CONFIG").map(PathBuf::from));
    let usual = || {
        let (xdg, home) = (set("XDG_CONFIG_HOME"), set("HOME"));
        default_file(xdg.as_deref().map(Path::new), home.as_deref().map(Path::new))
    };
    let file = match named.clone().or_else(usual) {
        None => None,
        Some(path) => match std::fs::read_to_string(&path) {
            Ok(text) => Some((path, text)),
            // Nobody has to have a file, but one that was named must be there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => None,
            Err(source) => {
                return Err(kiln_disk::Error::io("read", path.display().to_string(), source).into());
            }
        },
    };
    let mut flags: Vec<(&str, String)> = more.to_vec();
    if let Some(path) = &session.store {
        flags.push(("store", path.display().to_string()));
    }
    if let Some(account) = &session.account {
        flags.push(("account", account.clone()));
    }
    let variable = |name: &str| std::env::var(name).ok();
    Ok(Settings::gather(
        file.as_ref().map(|(path, text)| (path.as_path(), text.as_str())),
        &variable,
        &flags,
    )?)
}

/// Where the store is.
pub(crate) fn store_path(session: &Session) -> Result<PathBuf> {
    let (kiln_store, xdg, home) =
        (std::env::var_os("KILN_STORE"), std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME"));
    let set = settings(session, &[])?.store();
    let places = Places {
        flag: session.store.as_deref().or(set.as_deref()),
        kiln_store: kiln_store.as_deref(),
        xdg_data_home: xdg.as_deref(),
        home: home.as_deref(),
    };
    Ok(locate(places)?)
}

/// The store as the settings say: account and limits.
pub(crate) fn as_set(store: Store, session: &Session) -> Result<Store> {
    let settings = settings(session, &[])?;
    let store = store.with_quota(settings.quota());
    Ok(match settings.account() {
        Some(account) => store.acting_as(account),
        None => store,
    })
}

/// The store, which must be there.
pub(crate) fn open_store(session: &Session) -> Result<Store> {
    as_set(Store::open(&store_path(session)?)?, session)
}

/// The image that a word means.
pub(crate) fn find(word: &str, session: &Session) -> Result<StoredImage> {
    let store = open_store(session)?;
    let Image { manifest, record, relation } = store.image(word)?;
    Ok(StoredImage { store, manifest, record, relation })
}

/// Whether the error only says that there is no such image.
fn is_absence(error: &CliError) -> bool {
    matches!(error.code(), "store.not-found" | "store.missing" | "store.no-place")
        || error.code().starts_with("name.")
}
