//! A path is decoded once. What comes out has no dot segments and no NUL, and its one encoding as the
//! key of an object leads back to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yatagarasu::internals::{ObjectKey, Prefix, RouteTable, decode};

fuzz_target!(|raw: &str| {
    let Ok(path) = decode(raw) else { return };
    assert!(
        !path.contains('\0') && !path.split('/').any(|segment| matches!(segment, "." | "..")),
        "{path:?}"
    );
    let encoded = ObjectKey::new(path.clone().into_owned()).encoded().to_string();
    assert!(encoded.is_ascii());
    assert_eq!(decode(&encoded).as_deref(), Ok(&*path));
    let prefixes = ["/", "/img", "/img/a"].map(|text| Prefix::parse(text).expect("a prefix"));
    let routes: RouteTable<usize> =
        prefixes.into_iter().enumerate().map(|(index, prefix)| (prefix, index)).collect();
    let (_, key) = routes.find(&path).expect("`/` takes the rest");
    assert!(path.ends_with(key));
});
