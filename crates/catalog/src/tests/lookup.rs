//! Finding and listing.

use super::*;

#[test]
fn image_is_found_by_every_name_it_has() {
    let (_dir, store) = new_store();
    let image = import(&store, "debian", &disk(1)).manifest;
    import(&store, "debian:12", &disk(2));
    let queries = [
        "debian".to_owned(),
        "debian:latest".to_owned(),
        image.id.to_string(),
        image.digests.content.to_string(),
        image.source.digests[0].to_string(),
        image.source.digests[0].hex(),
        image.layers[0].digest.to_string(),
    ];
    for query in queries {
        assert_eq!(store.find(&query).unwrap(), image, "{query}");
    }
    let unique = (5..=12).map(|len| &image.id.as_str()[..len]).find(|prefix| store.find(prefix).is_ok());
    assert_eq!(store.find(unique.unwrap()).unwrap(), image);
}

#[test]
fn ambiguous_prefix_and_digest_list_all_that_fit() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    let b = import(&store, "b", &disk(1)).manifest;
    for query in ["img-".to_owned(), a.digests.content.to_string()] {
        match store.find(&query).unwrap_err() {
            Error::Refused(Refusal::Ambiguous { candidates, .. }) => {
                let mut expected = vec![format!("{} (a:latest)", a.id), format!("{} (b:latest)", b.id)];
                expected.sort();
                assert_eq!(candidates, expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn missing_tag_is_not_found_and_the_other_tags_are_named() {
    let (_dir, store) = new_store();
    import(&store, "debian:12", &disk(1));
    match store.find("debian").unwrap_err() {
        Error::Refused(Refusal::NotFound { query, near }) => {
            assert_eq!((query.as_str(), near), ("debian", vec!["debian:12".to_owned()]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_queries_find_nothing_and_do_no_harm() {
    let (_dir, store) = new_store();
    import(&store, "a", &disk(1));
    for query in ["img-%", "img-_", "img-' OR 1=1 --", "img-\0"] {
        assert_eq!(store.find(query).unwrap_err().code(), "store.not-found", "{query:?}");
    }
    for query in ["", "*", "a'; DROP TABLE images; --", "../a", "-a", "a:b:c"] {
        assert!(store.find(query).unwrap_err().code().starts_with("name."), "{query:?}");
    }
    assert_eq!(store.list(&Filter::default()).unwrap().len(), 1);
}

#[test]
fn listing_is_by_name_then_tag_and_filters_by_pattern() {
    let (_dir, store) = new_store();
    for (name, seed) in [("b:2", 1), ("a", 2), ("b:1", 3)] {
        import(&store, name, &disk(seed));
    }
    let names = |patterns: &[&str]| -> Vec<String> {
        let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let filter = Filter { patterns, ..Filter::default() };
        store.list(&filter).unwrap().iter().map(|entry| entry.manifest.title()).collect()
    };
    assert_eq!(names(&[]), ["a:latest", "b:1", "b:2"]);
    assert_eq!(names(&["b"]), ["b:1", "b:2"]);
    assert_eq!(names(&["b:2", "a*"]), ["a:latest", "b:2"]);
    assert_eq!(names(&["c"]), [""; 0]);
}
