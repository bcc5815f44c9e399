//! However the bytes of a page come, it reads the same.

use proptest::prelude::*;

use super::*;

#[test]
fn every_split_of_a_page_reads_the_same() {
    let whole = read(ARTICLE);
    for at in 1..ARTICLE.len() {
        // The parser gets its blocks one by one, so that the first ends at every byte in turn.
        let mut reader = MetadataReader::with_blocks(&home(), Some(UTF_8), at);
        assert!(reader.write(ARTICLE.as_bytes()).is_continue());
        assert_eq!(reader.end(), whole, "split at {at}");
    }
}

/// Pieces whose cutting, joining and nesting is where a parser goes wrong.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(ARTICLE.as_bytes().to_vec()),
        prop::sample::select(vec![
            "<title>",
            "</title>",
            "<svg>",
            "</svg>",
            "<math>",
            "<body>",
            "<head>",
            "<a href=",
            "'",
            "\"",
            ">",
            "<",
            "/>",
            "<!--",
            "-->",
            "<![CDATA[",
            "]]>",
            "&",
            "&amp",
            ";",
            "&#x",
            "é",
            "<script type='application/ld+json'>",
            "</script>",
            "{\"@type\":\"A\"}",
            "<meta ",
            "name=robots ",
            "content=",
            "<base href=/b/>",
            "<link rel=icon href=/i>",
            "<template>",
            "<noscript>",
            "<plaintext>",
            "<textarea>",
            "<style>",
            "<select>",
            "\0",
            " ",
            "\n",
            "=",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn chunks_of_any_size_read_the_same(
        html in soup(),
        sizes in prop::collection::vec(1..600usize, 1..40),
    ) {
        let whole = read(&html);
        let mut reader = MetadataReader::new(&home(), None);
        let mut rest = html.as_slice();
        for size in sizes.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, later) = rest.split_at(size.min(rest.len()));
            prop_assert!(reader.write(chunk).is_continue());
            rest = later;
        }
        prop_assert_eq!(reader.end(), whole);
    }

    /// The reader joins chunks to blocks, so the test above says nothing about what happens at
    /// the edge of a block; this one moves the edges. The charset is given, for the block is also
    /// where a declared one is looked for.
    #[test]
    fn blocks_of_any_size_read_the_same(html in soup(), block_bytes in 1..200usize) {
        let whole = read_as(&html, Some(UTF_8));
        let mut reader = MetadataReader::with_blocks(&home(), Some(UTF_8), block_bytes);
        prop_assert!(reader.write(&html).is_continue());
        prop_assert_eq!(reader.end(), whole);
    }

    #[test]
    fn binary_garbage_gives_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..6000)) {
        let page = read(&bytes);
        prop_assert!(page.complete);
    }
}
