//! The documents that S3 clients are answered with, but for listings of objects ([`page`](super::page)).

use std::io::Write as _;

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

use super::error::Error;
use crate::config::bucket::Bucket;

/// The media type of all documents.
pub const MEDIA_TYPE: &str = "application/xml";

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// A document under construction. Writing to memory doesn't fail.
pub(super) struct Document(Writer<Vec<u8>>);

impl Document {
    /// Begins a document with this root, and room for so many bytes.
    pub(super) fn new(root: &str, with_namespace: bool, bytes_expected: usize) -> Document {
        let mut bytes = Vec::with_capacity(bytes_expected);
        let _ = writeln!(bytes, r#"<?xml version="1.0" encoding="UTF-8"?>"#);
        let mut writer = Writer::new(bytes);
        let mut start = BytesStart::new(root);
        if with_namespace {
            start.push_attribute(("xmlns", NAMESPACE));
        }
        let _ = writer.write_event(Event::Start(start));
        Document(writer)
    }

    /// Begins an element that has others.
    pub(super) fn open(&mut self, name: &str) -> &mut Document {
        let _ = self.0.write_event(Event::Start(BytesStart::new(name)));
        self
    }

    /// Ends it.
    pub(super) fn close(&mut self, name: &str) -> &mut Document {
        let _ = self.0.write_event(Event::End(BytesEnd::new(name)));
        self
    }

    /// An element with a text. Characters that no document may have are replaced.
    pub(super) fn text(&mut self, name: &str, text: &str) -> &mut Document {
        let allowed = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
        self.open(name);
        let _ = match text.chars().all(allowed) {
            true => self.put(text),
            false => {
                let clean = |c| if allowed(c) { c } else { '\u{fffd}' };
                self.put(&text.chars().map(clean).collect::<String>())
            }
        };
        self.close(name)
    }

    /// Who owns all buckets and objects.
    pub(super) fn owner(&mut self) -> &mut Document {
        self.open("Owner").text("ID", "penstock");
        self.text("DisplayName", "penstock").close("Owner")
    }

    fn put(&mut self, text: &str) -> std::io::Result<()> {
        self.0.write_event(Event::Text(BytesText::new(text)))
    }

    /// Ends the document.
    pub(super) fn finish(mut self, root: &str) -> Vec<u8> {
        self.close(root);
        let mut bytes = self.0.into_inner();
        bytes.shrink_to_fit();
        bytes
    }
}

/// Characters of a path that an error repeats at most: escaped, one may take six bytes.
const RESOURCE_CHARS_MAX: usize = 256;

/// The document of an error, about the resource with this path.
pub fn error(error: &Error, resource: &str) -> Vec<u8> {
    let mut document = Document::new("Error", false, 512);
    document.text("Code", error.code.name());
    document.text("Message", &error.message);
    if let Some(region) = &error.region {
        document.text("Region", region);
    }
    let shown: String = resource.chars().take(RESOURCE_CHARS_MAX).collect();
    document.text("Resource", &shown);
    document.finish("Error")
}

/// The answer to ListBuckets. A bucket is a name that the operator gave, and was made at no time in particular.
pub fn buckets<'a>(buckets: impl Iterator<Item = &'a Bucket>) -> Vec<u8> {
    const ROOT: &str = "ListAllMyBucketsResult";
    let mut document = Document::new(ROOT, true, 4096);
    document.owner().open("Buckets");
    for bucket in buckets {
        document.open("Bucket").text("Name", &bucket.name);
        document.text("CreationDate", "1970-01-01T00:00:00.000Z");
        document.close("Bucket");
    }
    document.close("Buckets");
    document.finish(ROOT)
}

/// The answer to GetBucketLocation. The first of all regions has no name there.
pub fn location(region: &str) -> Vec<u8> {
    const ROOT: &str = "LocationConstraint";
    let mut document = Document::new(ROOT, true, 512);
    if region != super::buckets::REGION_DEFAULT {
        let _ = document.put(region);
    }
    document.finish(ROOT)
}

#[cfg(test)]
mod tests {
    use super::super::error::Code;
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

    #[test]
    fn errors_are_escaped() {
        let mut wrong = Error::new(Code::NoSuchKey, "a < b & c");
        assert_eq!(
            text(error(&wrong, "/b/<x>\u{1}")),
            format!(
                "{HEAD}<Error><Code>NoSuchKey</Code><Message>a &lt; b &amp; c</Message>\
                 <Resource>/b/&lt;x&gt;\u{fffd}</Resource></Error>"
            )
        );
        wrong.region = Some("eu-1".into());
        assert!(text(error(&wrong, "/")).contains("<Region>eu-1</Region>"));
    }

    #[test]
    fn buckets_and_locations() {
        let all: [Bucket; 2] = ["abc", "def"].map(|name| name.parse().unwrap());
        let list = text(buckets(all.iter()));
        assert!(
            list.contains("<Bucket><Name>abc</Name><CreationDate>"),
            "{list}"
        );
        assert_eq!(list.matches("<Bucket>").count(), 2);
        let empty =
            format!("{HEAD}<LocationConstraint xmlns=\"{NAMESPACE}\"></LocationConstraint>");
        assert_eq!(text(location("us-east-1")), empty);
        assert!(text(location("eu-1")).contains(">eu-1<"));
    }
}
