//! What a registry asks for before it gives anything: the header `WWW-Authenticate`.

/// Most characters of a challenge that are looked at.
const MAX_LEN: usize = 8 * 1024;

/// A way to show who one is (RFC 9110, section 11.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case.
    pub scheme: String,
    /// In the order of the header, names in lower case.
    pub params: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value; the first of several.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the challenges of one header; what cannot be read ends the list.
pub fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    if header.len() > MAX_LEN {
        return challenges;
    }
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((word, after)) = token(rest) else { return challenges };
        if let (Some(challenge), Some((value, after))) = (challenges.last_mut(), value(after)) {
            challenge.params.push((word.to_ascii_lowercase(), value));
            rest = after;
        } else {
            let scheme = word.to_ascii_lowercase();
            challenges.push(Challenge { scheme, params: Vec::new() });
            rest = after;
        }
    }
}

/// A word, and what follows it.
fn token(text: &str) -> Option<(&str, &str)> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !plain(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// What stands behind an equals sign, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches([' ', '\t']).strip_prefix('=')?;
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = token(text)?;
        return Some((word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_told_apart() {
        let header = r#"Basic realm="a, b", Bearer realm="https://auth.example.com/token",service=reg,scope="repository:a/b:pull,push",error="\"x\"""#;
        let challenges = parse_challenges(header);
        let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["basic", "bearer"]);
        assert_eq!(challenges[0].param("realm"), Some("a, b"));
        assert_eq!(challenges[1].param("realm"), Some("https://auth.example.com/token"));
        assert_eq!(challenges[1].param("service"), Some("reg"));
        assert_eq!(challenges[1].param("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenges[1].param("error"), Some("\"x\""));
        assert_eq!(challenges[1].param("none"), None);
    }

    #[test]
    fn nonsense_makes_no_challenge() {
        for text in ["", "  ,,", "\"", "=x", &"a ".repeat(MAX_LEN)] {
            assert!(parse_challenges(text).is_empty(), "{text:.20}");
        }
        let cut = parse_challenges("Bearer realm=\"https://x");
        assert_eq!((cut.len(), cut[0].param("realm")), (2, None));
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics_or_makes_more_than_it_has(header in "[a-z =\",\\\\é]{0,60}") {
            let challenges = parse_challenges(&header);
            let params: usize = challenges.iter().map(|c| c.params.len()).sum();
            proptest::prop_assert!(challenges.len() + params <= header.len());
        }
    }
}
