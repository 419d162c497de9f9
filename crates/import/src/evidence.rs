//! What proves a file, gathered before it is looked at: digests, lists of them, signatures.

use kiln_catalog::{Job, SignerRecord, Store};

use crate::checksum::{Expect, Expected, MAX_LIST, expected};
use crate::error::Result;
use crate::fetch::FetchOptions;
use crate::signature::{Place, SignatureWish, Verifier};

/// What is to be proved, and by whom it is said.
#[derive(Default)]
pub(crate) struct Evidence {
    /// Digests that the file must have, strongest first.
    pub(crate) expected: Vec<Expected>,
    /// Who signed the list that they come from.
    pub(crate) signer: Option<SignerRecord>,
    /// A signature over the file itself, still to be verified.
    pub(crate) over_file: Option<Verifier>,
}

impl Evidence {
    /// Reads lists and signatures, and verifies those over lists.
    pub(crate) fn gather(
        store: &Store,
        expect: &Expect,
        wish: Option<&SignatureWish>,
        file_name: Option<&str>,
        options: &FetchOptions,
    ) -> Result<Self> {
        let place = match expect {
            Expect::ListAt(place) => Some(place.clone()),
            Expect::List(path) => Some(Place::File(path.clone())),
            _ => None,
        };
        let verifier = wish.map(|wish| Verifier::read(wish, options)).transpose()?;
        let Some(place) = place else {
            let expected = expected(expect, file_name)?;
            return Ok(Self { expected, signer: None, over_file: verifier });
        };
        let Some(verifier) = verifier else {
            let text = list_text(&place, options)?;
            let list = place.name();
            return Ok(Self {
                expected: expected(&Expect::Text { list, text }, file_name)?,
                ..Self::default()
            });
        };
        let list = place.name();
        let bytes = place.read(options, MAX_LIST)?;
        let job = store.begin()?;
        let (signed, signer) = verifier.list(&list, bytes, job.dir())?;
        let text = String::from_utf8_lossy(&signed).into_owned();
        Ok(Self {
            expected: expected(&Expect::Text { list, text }, file_name)?,
            signer: Some(signer),
            over_file: None,
        })
    }

    /// Whether anything will prove the file.
    pub(crate) fn proves(&self) -> bool {
        !self.expected.is_empty() || self.over_file.is_some()
    }

    /// Verifies the signature over the file, if there is one to verify.
    pub(crate) fn verify_file(
        &mut self,
        what: &str,
        source: &kiln_disk::FileSource,
        job: &Job,
    ) -> Result<()> {
        if let Some(verifier) = self.over_file.take() {
            self.signer = Some(verifier.file(what, source, job.dir())?);
        }
        Ok(())
    }
}

fn list_text(place: &Place, options: &FetchOptions) -> Result<String> {
    let bytes = match place {
        // Its own words for files that are too long.
        Place::File(path) => return crate::checksum::read_list(path),
        Place::Url(_) => place.read(options, MAX_LIST)?,
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
