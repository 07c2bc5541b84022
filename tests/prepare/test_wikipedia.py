import sys
from pathlib import Path

import pytest
from corpus_fixture import dump, page, read

from bertjax.errors import InputError
from bertjax.prepare import __main__ as prepare
from bertjax.prepare import wikipedia
from bertjax.prepare.interface import Input

WIKITEXT = """{{Infobox person
| name = Ada | image = [[File:x.jpg|thumb]]
}}
'''Ada''' ({{IPA|x}}; born 1815) was an ''English'' [[mathematician|expert]]<ref name="a">{{cite|b}}</ref>,
{{circa|1833}}, and [[writer]].&nbsp;She was [https://x.org first].<ref name=b/> <!-- hidden
text -->
== Life ==
[[File:Foo.jpg|thumb|A caption with a [[link]].]]
[[Category:People]] [[de:Ada]]
* bullet
** deeper ''bullet''
# number
: indented
; term : definition
{| class="wikitable"
! head !! head
|-
| cell || cell
|}
A formula <math>x^2</math> was <small>here</small>.<br />[[Star Trek: Voyager]] too. __NOTOC__
<ul><li>html bullet</li></ul>
<gallery>
File:a.jpg|caption
</gallery>
<blockquote>Quoted text is 5 &lt; 6.</blockquote>
[[Broken link

Never {{closed.
"""


def test_wikitext() -> None:
    assert wikipedia.paragraphs(WIKITEXT) == [
        "Ada (born 1815) was an English expert, and writer. She was first.",
        "A formula was here. Star Trek: Voyager too.",
        "Quoted text is 5 < 6.",
    ]


def test_wikipedia_pages(tmp_path: Path) -> None:
    file = tmp_path / "dump.xml"
    pages = [
        page("Kept", "One &amp;amp; two &lt;ref&gt;no&lt;/ref&gt;here. It goes\non.\n\nNew paragraph."),
        page("Talk:Kept", "Talk.", ns=1),
        page("Moved", "#REDIRECT [[Kept]]", extra='    <redirect title="Kept" />\n'),
        page("Module", "return 1").replace("wikitext", "Scribunto"),
        page("Only a list", "* One.\n* Two."),
        page("Last", "Last page."),
    ]
    file.write_text(dump(pages))
    inp = Input(str(file), "wikipedia")
    assert read(inp, 64) == [["One & two here.", "It goes on.", "New paragraph."], ["Last page."]]

    for cut in (-5, -20, -100):
        file.write_text(dump(pages)[:cut])
        with pytest.raises(InputError, match=r"dump\.xml:\d+: the dump ends without </mediawiki>"):
            read(inp)
    file.write_text(dump([pages[0], pages[-1].replace("</text>", "</txt>")]))
    for block_bytes in (64, 1 << 20):
        with pytest.raises(
            InputError, match=r"dump\.xml:19: the page is not well-formed XML \(mismatched tag"
        ):
            read(inp, block_bytes)
    file.write_text(dump([pages[0].replace("<revision>", "<revision></revision><revision>")]))
    with pytest.raises(InputError, match=r"dump\.xml:3: page 'Kept' has 2 revisions"):
        read(inp)
    file.write_text(dump([pages[0].replace("<ns>0</ns>", "")]))
    with pytest.raises(InputError, match=r"dump\.xml:3: the page has no <ns>"):
        read(inp)
    file.write_text("<html>no dump</html>\n")
    with pytest.raises(InputError, match=r"dump\.xml: no <page> in it"):
        read(inp)


def test_a_dump_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    wikipedia.parser.cache_clear()
    message = (
        r'--format=wikipedia: mwparserfromhell is not installed; run: pip install "bertjax\[wikipedia\]"'
    )
    common = ["--vocab_size=100", f"--out={tmp_path / 'out'}", f"--input={tmp_path / 'absent'}"]
    with pytest.raises(InputError, match=message):
        prepare.main([*common, "--format=wikipedia"])
    with pytest.raises(InputError, match="absent: no such file"):
        prepare.main([*common, "--format=text"])
