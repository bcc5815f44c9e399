//! Guesses the language of a page from a sample of its text: what a page declares of itself is
//! often the default of its generator.

/// Enough to tell languages apart, and little to keep for each page that is being read.
const MAX_SAMPLE_BYTES: usize = 4096;
/// Less is a menu or an error, of which a guess is as good as none.
const MIN_SAMPLE_BYTES: usize = 100;

/// The first text of a page.
#[derive(Debug, Default)]
pub(super) struct Sample(String);

impl Sample {
    /// Takes a piece of text, references unresolved.
    pub fn take(&mut self, text: &str) {
        if self.0.len() < MAX_SAMPLE_BYTES {
            let room = MAX_SAMPLE_BYTES - self.0.len();
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
        }
    }

    /// Between two elements is a boundary of words.
    pub fn boundary(&mut self) {
        if !self.0.is_empty() && !self.0.ends_with(' ') {
            self.take(" ");
        }
    }

    /// The language, as the three letters of ISO 639-3 (`eng`, `jpn`), if the text leaves no doubt.
    pub fn guess(&self) -> Option<String> {
        let text = super::text::content(&self.0);
        if text.trim().len() < MIN_SAMPLE_BYTES {
            return None;
        }
        let info = whatlang::detect(&text)?;
        info.is_reliable().then(|| info.lang().code().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(text: &str) -> Option<String> {
        let mut sample = Sample::default();
        sample.take(text);
        sample.guess()
    }

    #[test]
    fn a_language_is_told_by_a_few_sentences_and_not_by_a_few_words() {
        let told = [
            (
                "eng",
                "The quick brown fox jumps over the lazy dog, and nobody who has seen it would \
                 say that the dog was asleep; it was only thinking about what it should do next.",
            ),
            (
                "deu",
                "Der schnelle braune Fuchs springt &uuml;ber den faulen Hund, und niemand, der es \
                 gesehen hat, w&uuml;rde sagen, dass der Hund schlief; er dachte nur dar&uuml;ber nach.",
            ),
            (
                "jpn",
                "素早い茶色の狐はのろまな犬を飛び越える。それを見た人は誰も、犬が眠っていたとは言わないだろう。\
                 犬はただ次に何をすべきかを考えていただけなのである。",
            ),
            (
                "rus",
                "Быстрая коричневая лиса перепрыгивает через ленивую собаку, и никто из тех, кто это \
                 видел, не сказал бы, что собака спала; она лишь думала о том, что делать дальше.",
            ),
        ];
        for (language, text) in told {
            assert_eq!(guess(text).as_deref(), Some(language));
        }
        assert_eq!(guess("Home Products About us Contact"), None);
        assert_eq!(guess(&"1234567890 ".repeat(20)), None);
    }

    #[test]
    fn a_sample_has_an_end() {
        let mut sample = Sample::default();
        (0..1000).for_each(|_| {
            sample.take(&"ä".repeat(999));
            sample.boundary();
        });
        assert_eq!(sample.0.len(), MAX_SAMPLE_BYTES);
    }
}
