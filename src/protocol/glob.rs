//! Glob patterns: `*` is any text, `?` one character; upper and lower case are the same.
//!
//! Push rules match whole values and words in a message, server ACLs match server names. Matching
//! walks the text once, whatever the pattern, so no pattern is a trap.
//!
//! Spec: appendices#glob-style-matching

/// Longer patterns match nothing: nobody writes them by hand.
const MAX_PATTERN: usize = 512;

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
    /// The text of a pattern without `*` and `?`, in lower case.
    literal: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Any,
}

impl Glob {
    pub fn new(pattern: &str) -> Self {
        let pattern = pattern.to_lowercase();
        let literal = (!pattern.contains(['*', '?'])).then(|| pattern.clone());
        let mut tokens = Vec::new();
        for char in pattern.chars() {
            let token = match char {
                '*' => Token::Any,
                '?' => Token::One,
                char => Token::Char(char),
            };
            if token != Token::Any || tokens.last() != Some(&Token::Any) {
                tokens.push(token);
            }
        }
        Self { tokens, literal }
    }

    /// Whether the pattern matches the whole text, which is in lower case already.
    pub fn matches_lower(&self, text: &str) -> bool {
        if let Some(literal) = &self.literal {
            return literal == text;
        }
        self.walk(text, |at| at == 0, |at| at == text.len())
    }

    /// Whether the pattern matches the whole text.
    pub fn matches(&self, text: &str) -> bool {
        self.matches_lower(&text.to_lowercase())
    }

    /// Whether the pattern matches a part of the text that begins and ends at a word boundary. The
    /// text is in lower case already. Spec: client-server-api#push-rules
    pub fn matches_word_lower(&self, text: &str) -> bool {
        if let Some(literal) = &self.literal {
            return contains_word(text, literal);
        }
        let boundary = |at| is_boundary(text, at);
        self.walk(text, boundary, boundary)
    }

    /// Walks the text with the set of places in the pattern that are reached, as an automaton does.
    fn walk(&self, text: &str, may_begin: impl Fn(usize) -> bool, may_end: impl Fn(usize) -> bool) -> bool {
        if self.tokens.len() > MAX_PATTERN {
            return false;
        }
        let mut reached = vec![false; self.tokens.len() + 1];
        let mut next = reached.clone();
        let mut chars = text.char_indices();
        loop {
            let (at, char) = match chars.next() {
                Some((at, char)) => (at, Some(char)),
                None => (text.len(), None),
            };
            reached[0] |= may_begin(at);
            for place in 0..self.tokens.len() {
                if reached[place] && self.tokens[place] == Token::Any {
                    reached[place + 1] = true;
                }
            }
            if reached[self.tokens.len()] && may_end(at) {
                return true;
            }
            let Some(char) = char else { return false };
            next.fill(false);
            for (place, token) in self.tokens.iter().enumerate() {
                match token {
                    _ if !reached[place] => {}
                    Token::Any => next[place] = true,
                    Token::One => next[place + 1] = true,
                    Token::Char(wanted) => next[place + 1] |= *wanted == char,
                }
            }
            std::mem::swap(&mut reached, &mut next);
        }
    }
}

/// Whether the text contains these words, beginning and ending at word boundaries.
pub fn contains_word(text: &str, words: &str) -> bool {
    if words.is_empty() {
        return false;
    }
    let mut from = 0;
    while let Some(found) = text[from..].find(words) {
        let start = from + found;
        if is_boundary(text, start) && is_boundary(text, start + words.len()) {
            return true;
        }
        from = start + text[start..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// Whether there is a word on at most one side of this place.
fn is_boundary(text: &str, at: usize) -> bool {
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let before = text[..at].chars().next_back();
    let after = text[at..].chars().next();
    !(before.is_some_and(is_word) && after.is_some_and(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_value_is_matched_from_end_to_end() {
        for (pattern, text, expected) in [
            ("lunc?*", "Lunch plans", true),
            ("lunc?*", "LUNCH", true),
            ("lunc?*", " lunch", false),
            ("lunc?*", "lunc", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("?", "é", true),
            ("*.example.org", "matrix.EXAMPLE.org", true),
            ("*.example.org", "example.org", false),
            ("a.c", "abc", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} in {text}");
        }
    }

    #[test]
    fn words_are_matched_between_boundaries() {
        for (pattern, text, expected) in [
            ("ex*ple", "An example event.", true),
            ("ex*ple", "exple", true),
            ("ex*ple", "An exciting triple-whammy", true),
            ("cake", "pancake", false),
            ("cake", "cakes", false),
            ("cake", "my cake_is", false),
            ("cake", "cake", true),
            ("cake", "pancake cake!", true),
            ("@room", "hello @room", true),
            ("tea time", "is it tea time?", true),
            ("te?", "time for tea", true),
            ("te?", "steam", false),
            ("über", "das ÜBER-wort", true),
            ("", "anything", false),
        ] {
            assert_eq!(Glob::new(pattern).matches_word_lower(&text.to_lowercase()), expected, "{pattern} in {text}");
        }
    }

    #[test]
    fn no_pattern_is_a_trap() {
        let text = "a".repeat(60_000);
        assert!(!Glob::new(&"a*".repeat(100)).matches_word_lower(&format!("b{text}b")));
        assert!(!Glob::new(&"?".repeat(5_000)).matches_lower(&text));
    }
}
