//! The words of a text, folded so that those who look for `cafe` find `Café`.
//!
//! Words are what Unicode says they are. Folding takes away case, the accents of Latin, Greek and Cyrillic letters,
//! and the many ways to write the same letter; it knows no language.

use std::collections::BTreeMap;

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// How much of a text is looked at, in bytes: a long one is found by its beginning.
const MOST_TEXT: usize = 16 << 10;
/// How many different words of a text count.
const MOST_WORDS: usize = 400;
/// The longest folded word, in bytes; what is behind is cut off.
const LONGEST_WORD: usize = 40;

/// The words of a text as they are written.
pub fn written(text: &str) -> impl Iterator<Item = &str> {
    beginning(text, MOST_TEXT).unicode_words()
}

/// The folded words of a text and how often each occurs.
pub fn counted(text: &str) -> BTreeMap<String, u8> {
    let mut words = BTreeMap::<String, u8>::new();
    for word in written(text) {
        let word = fold(word);
        if words.len() >= MOST_WORDS && !words.contains_key(&word) {
            continue;
        }
        let count = words.entry(word).or_default();
        *count = count.saturating_add(1);
    }
    words
}

/// A word without what does not make a difference.
pub fn fold(word: &str) -> String {
    let mut folded = match word.is_ascii() {
        true => word.to_ascii_lowercase(),
        // Taken apart first: what is left of a letter in bold may be a capital.
        false => {
            let letters = word.nfkd().collect::<String>().to_lowercase();
            letters.chars().filter(|letter| !is_accent(*letter)).nfc().collect()
        }
    };
    folded.truncate(beginning(&folded, LONGEST_WORD).len());
    folded
}

/// The combining marks that stand on Latin, Greek and Cyrillic letters. Those of other scripts are vowels.
fn is_accent(letter: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&letter)
}

/// At most this many bytes of a text, in whole letters.
fn beginning(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(counted(text).into_keys().collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn a_text_is_taken_apart_into_folded_words() {
        check("Dinner is READY, come down!", "come dinner down is ready");
        check("Café CAFE\u{301} cafe", "cafe");
        check("Żółw, Ёлка; Ὀδυσσεύς", "zołw οδυσσευς елка");
        check("can't 3.14 ﬁsh #42", "3.14 42 can't fish");
        check("早上好", "上 好 早");
        check("𝐇𝐞𝐥𝐥𝐨 ℌ Ⅷ", "h hello viii");
        check("🎉 -- …", "");
    }

    #[test]
    fn what_is_looked_at_is_bounded() {
        let many: String = (0..1_000).map(|n| format!("word{n} ")).collect();
        assert_eq!(counted(&many).len(), MOST_WORDS);
        assert_eq!(fold(&"ä".repeat(100)).len(), LONGEST_WORD);
        assert_eq!(fold(&"語".repeat(100)).len(), LONGEST_WORD - LONGEST_WORD % 3);
        assert_eq!(counted(&"x ".repeat(1 << 20))["x"], u8::MAX);
    }
}
