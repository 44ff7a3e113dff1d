"""Headings that are misspelt, flattened, decorated, of other languages or of a site: no sentence on the image is lost."""

import pytest

from conftest import json_lines, run_cli
from mcr_infer.errors import ConfigError, ReportError
from mcr_infer.reports import embed_text, read_headings, select_text, split_report
from mcr_infer.reports.headings import default_headings

ADDENDA = {
    "below": ("FINDINGS: Clear.\nIMPRESSION: Normal.\nADDENDUM: Small left pneumothorax.", "Small left pneumothorax."),
    "above": ("ADDENDUM:  Left\n pneumothorax.\n____\n\n INDICATION:  Fall.\n\n FINDINGS:  Clear.", "Left pneumothorax."),
    "without a colon": ("FINDINGS: Clear.\n\nADDENDUM  There is a nodule.", "There is a nodule."),
    "in stars": ("FINDINGS: Clear.\n*** ADDENDUM ***\nThere is a nodule.\n*** END OF ADDENDUM ***", "There is a nodule."),
    "numbered and dated": ("FINDINGS: Clear.\nADDENDUM #1 (3/4/2020 14:02): There is a nodule.", "There is a nodule."),
    "with its author": ("FINDINGS: Clear.\nAddendum by Dr. A on 3/4 at 14:02: There is a nodule.", "There is a nodule."),
    "misspelt": ("FINDINGS: Clear.\nADENDUM: There is a nodule.", "There is a nodule."),
    "German": ("Befund: Frei.\nNachtrag: Kleiner Pneumothorax links.", "Kleiner Pneumothorax links."),
    "in a notification": (
        "FINDINGS: Clear.\n ADDENDUM  Findings of a new pneumothorax were discussed with the team.",
        "Findings of a new pneumothorax were discussed with the team.",
    ),
    "alone": ("ADDENDUM: There is a nodule.", "There is a nodule."),
    "with sections of its own": (
        "FINDINGS: Clear.\nIMPRESSION: Normal.\n\nADDENDUM:\nFINDINGS: Rib fracture.\nIMPRESSION: Fracture.",
        "Rib fracture. Fracture.",
    ),
    "beside a notification": (
        "FINDINGS: Clear.\nADDENDUM: There is a nodule. The findings were discussed with Dr. A.", "There is a nodule.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", ADDENDA)
def test_an_addendum_is_the_last_word(place):
    text, addendum = ADDENDA[place]
    assert split_report(text).addendum == addendum
    assert embed_text(text).endswith(addendum)
    for use in ("findings", "longest"):
        assert embed_text(text, use=use).endswith(addendum)


EFFUSION = "There is a large left effusion."

KEPT = {
    "comparison": f"FINDINGS: AP view. Comparison: none. {EFFUSION} Heart is enlarged.",
    "comparison in capitals": f"FINDINGS: AP view. COMPARISON: 3/4/2020. {EFFUSION}",
    "comparison with a date blanked out": f"FINDINGS: AP view. Comparison: ___. {EFFUSION}",
    "technique": f"FINDINGS: Technique: portable. {EFFUSION}",
    "examination": f"IMPRESSION: Examination: limited. {EFFUSION}",
    "comparison at a line": f"FINDINGS: AP view.\nComparison: none. {EFFUSION}\nIMPRESSION: Effusion.",
    "comparison with the finding": "FINDINGS: Comparison: since the prior study there is a large left effusion.",
    "comparison below the findings": f"FINDINGS: AP view.\n\nCOMPARISON: None.\n\n{EFFUSION}",
    "signature in a sentence": f"FINDINGS: Images were\nreviewed by the attending. {EFFUSION}\nIMPRESSION: Effusion.",
    "comparison in a wrapped sentence": f"FINDINGS: Clear in\ncomparison: yes. {EFFUSION}",
    "paragraph below a signature": f"FINDINGS: AP view.\nReviewed by: Dr. A\n\n{EFFUSION}",
    "paragraph below a notification": f"IMPRESSION: One.\nNOTIFICATION: By phone.\n\n{EFFUSION}",
    "sentence below a recommendation": f"IMPRESSION: One.\nRECOMMENDATION: CT.\n{EFFUSION}",
    "prose above the findings": f"COMPARISON: None.\n\n{EFFUSION}\n\nFINDINGS: Heart is enlarged.",
    "a heading that nobody knows": f"INDICATION: Cough\nDIAGNOSIS: {EFFUSION}",
    "the same below a name": f"Patient: A\nChest x-ray: {EFFUSION}",
    "a short heading, misspelt": f"INDICATION: Cough.\nLUNSG: {EFFUSION}",
    "findings below the comparison": f"COMPARISON: 3/4. Large osteophytes are present. {EFFUSION}\nIMPRESSION: One.",
    "prose above an organ": f"COMPARISON: None.\n\nChest. {EFFUSION} Abdomen: Normal.\n\nIMPRESSION: One.",
    "prose at the end": f"IMPRESSION: One.\nEND OF IMPRESSION\n\n{EFFUSION}",
    "the indication and a line": f"INDICATION: Cough.\n{EFFUSION}",
    "the indication and a line, with an impression": f"INDICATION: Cough.\n{EFFUSION}\nIMPRESSION: One.",
    "the indication in one line": f"INDICATION: Cough. {EFFUSION}",
    "a sentence that begins with a heading": f"INDICATION: Cough.\n\nComparison is made to ___. {EFFUSION}",
    "findings that begin a sentence": f"INDICATION: Cough.\n\nFindings are consistent with failure. {EFFUSION}",
    "a preliminary read alone": f"WET READ: {EFFUSION}",
    "a final report that only agrees": f"PRELIMINARY REPORT: {EFFUSION} FINAL REPORT: Agree with the above.",
    "a report in capitals": f"INDICATION: COUGH.\n\n{EFFUSION.upper()}",
}


@pytest.mark.parametrize("place", KEPT)
def test_words_in_mid_text_cut_nothing(place):
    assert EFFUSION[:-1].lower() in embed_text(KEPT[place]).lower()


LEFT_OUT = {
    "indication": "INDICATION: Evaluate for SECRET effusion. Known SECRET.\n\nFINDINGS: Clear.",
    "history in the midst": "IMPRESSION: One.\nHISTORY: SECRET heart failure.\nFINDINGS: Clear.",
    "technique": "TECHNIQUE: Two SECRET views. Portable SECRET technique.\nFINDINGS: Clear.",
    "comparison": "COMPARISON: SECRET chest CT.\nFINDINGS: Clear.",
    "notification": "IMPRESSION: One.\nNOTIFICATION: The effusion was telephoned to Dr. SECRET.",
    "recommendation": "IMPRESSION: One.\nRECOMMENDATION(S): SECRET CT of the left lung.",
    "signature": "IMPRESSION: One.\nElectronically signed by Dr. SECRET",
    "signature in one line": "IMPRESSION: One. Electronically signed by Dr. SECRET on 3/4.",
    "signature in German": "Beurteilung: One.\n\nMit freundlichen Grüßen\nDr. SECRET",
    "a replaced preliminary read": "WET READ: SECRET effusion.\nIMPRESSION: SECRET.\nFINAL REPORT\nFINDINGS: Clear lungs.",
    "the same in one line": "WET READ: SECRET effusion. FINAL REPORT FINDINGS: Clear lungs.",
    "a preliminary read below": "FINDINGS: Clear.\n\nWET READ: ___\nSECRET effusion.\nEND OF REPORT",
    "an addendum of a call alone": "ADDENDUM: The findings were discussed with Dr. SECRET.\n\nFINDINGS: Clear.",
}


def test_findings_written_below_the_comparison_are_kept():
    text = "COMPARISON: 3/4. Osteophytes are present. Known nodule is larger. No interval change.\nIMPRESSION: One."
    assert split_report(text).findings == "Osteophytes are present. Known nodule is larger. No interval change."


@pytest.mark.parametrize("place", LEFT_OUT)
def test_what_is_not_about_the_image_stays_out(place):
    assert "SECRET" not in embed_text(LEFT_OUT[place])


LAYOUTS = {
    "numbered": "1. INDICATION: Cough.\n2. FINDINGS: Edema.\n3. IMPRESSION: Failure.",
    "Roman numbers": "I. INDICATION: Cough.\nII. FINDINGS: Edema.\nIII) IMPRESSION: Failure.",
    "Markdown": "**INDICATION:** cough\n\n### FINDINGS\nEdema.\n\n__IMPRESSION__\nFailure.",
    "HTML": "<b>INDICATION:</b> cough<br/><b>FINDINGS:</b> Edema.<BR><b>IMPRESSION:</b> Failure.",
    "HTML paragraphs": "<p><strong>Findings</strong></p><p>Edema.</p><h2 class='a'>Impression</h2>Failure.",
    "HL7": r"INDICATION: cough\.br\FINDINGS: Edema.\.br\IMPRESSION: Failure.",
    "escaped twice": r"INDICATION: cough\nFINDINGS: Edema.\nIMPRESSION: Failure.",
    "old line ends": "INDICATION: cough\rFINDINGS: Edema.\rIMPRESSION: Failure.",
    "line separators": "INDICATION: cough\u2028FINDINGS: Edema.\u2028IMPRESSION: Failure.",
    "other spaces and colons": "INDICATION\u00a0: cough\nFINDINGS\uff1aEdema.\nIMPRESSION\u202f:\u2003Failure.",
    "unseen characters": "\ufeffFINDINGS\u200b: Edema.\nIMPRES\u00adSION: Failure.",
    "dashes": "INDICATION – cough\nFINDINGS — Edema.\nImpression - Failure.",
    "no colons": "INDICATION Cough.\nFINDINGS PA view: Edema.\nIMPRESSION 1. Failure.",
    "no colons in one line": "INDICATION: Cough. FINDINGS Edema. IMPRESSION Failure.",
    "small letters in one line": "indication: cough. findings: edema. impression: failure.",
    "small letters without stops": "indication: cough comparison: none findings: edema. impression: failure.",
    "title case without stops": "Comparison: 3/4/2020 at 23:56 Findings: Edema. Impression: Failure.",
    "asides": "FINDINGS (PA and lateral): Edema.\nIMPRESSION (final): Failure.",
    "modifiers": "CRITICAL FINDINGS: Edema.\nFINAL RADIOGRAPHIC IMPRESSION: Failure.",
    "joined headings": "INDICATION/COMPARISON: cough\nFINDINGS & TECHNIQUE: Edema.\nIMPRESSION + RECOMMENDATIONS: Failure.",
    "one slip in each": "INDICATON: cough\nFIDNINGS: Edema.\nIMPRESION: Failure.",
    "another slip in each": "Comparision: None. Findinqs: Edema. Impresssion: Failure.",
    "shuffled letters": "INDICATION: cough\nFININDGS: Edema.\nIMPRSESION: Failure.",
    "twice": "FINDINGS: Edema.\nIMPRESSION: Failure.\nFINDINGS: Edema.\nIMPRESSION: Failure.",
    "French": "Renseignements cliniques : toux\nTechnique : face\nRésultats : Edema.\nConclusion : Failure.",
    "German": "Klinische Angaben, Fragestellung: Husten\nVoraufnahmen: keine\nBefund:\nEdema.\n\nBeurteilung:\nFailure.",
    "Spanish": "DATOS CLÍNICOS: tos\nTÉCNICA: PA\nHALLAZGOS: Edema.\nIMPRESIÓN DIAGNÓSTICA: Failure.",
    "Spanish without accents": "DATOS CLINICOS: tos\nHALLAZGOS: Edema.\nIMPRESION: Failure.",
    "Portuguese": "Indicação clínica: tosse\nExames anteriores: não\nAchados: Edema.\nImpressão diagnóstica: Failure.",
    "Portuguese, decomposed": "Indicac\u0327a\u0303o: tosse\nAna\u0301lise: Edema.\nImpressa\u0303o: Failure.",
    "Italian": "Quesito diagnostico: tosse\nConfronto: nessuno\nReperti: Edema.\nConclusioni: Failure.",
    "Dutch": "Klinische gegevens: hoest\nVergelijking: geen\nBevindingen: Edema.\nConclusie: Failure.",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_headings_are_found_in_every_layout(layout):
    text = LAYOUTS[layout]
    assert embed_text(text, use="findings").removeprefix("PA view: ").lower() == "edema."
    assert embed_text(text, use="impression").lower() == "failure."


ORGANS = {
    "English": "INDICATION: Cough.\nLUNGS: Clear.\nHEART: Normal.\nLINES AND TUBES: None.",
    "two in one": "INDICATION: Cough.\nLungs and pleura: Clear.\nHeart/Mediastinum: Normal.",
    "alone on lines": "INDICATION: Cough.\nLUNGS\nClear.\nBONES\nIntact.",
    "German": "Fragestellung: Husten.\nLunge: frei.\nHerz: normal.",
    "French": "Indication : toux.\nPoumons: clairs.\nCœur: normal.",
}


@pytest.mark.parametrize("language", ORGANS)
def test_organs_as_headings_are_findings(language):
    lines = ORGANS[language].splitlines()
    chosen = select_text(ORGANS[language])
    assert (chosen.text, chosen.part) == (" ".join(lines[1:]), "findings")
    assert select_text("\n".join(lines[1:])).text == chosen.text


TITLES = {
    "Report: Lungs clear": "Lungs clear",
    "MOTIVO: disnea\nINFORME: Cardiomegalia. No derrame pleural.": "Cardiomegalia. No derrame pleural.",
    "Quesito: tosse.\nReferto: Versamento pleurico.": "Versamento pleurico.",
    "Verslag: Geen pleuravocht links.": "Geen pleuravocht links.",
    "Compte rendu :\nÉpanchement pleural gauche.": "Épanchement pleural gauche.",
}


@pytest.mark.parametrize("text", TITLES)
def test_the_name_of_the_document_hides_nothing(text):
    assert embed_text(text) == TITLES[text]


@pytest.mark.parametrize(
    "word", ["Induration", "Compression", "Depression", "Landings", "Occlusion", "Lungs clear", "Contusion", "Views of"]
)
def test_words_near_a_heading_are_none(word):
    assert default_headings().kind(word, misspelt=True) is None


def test_ordinary_sentences_have_no_headings():
    text = "The findings suggest edema; compare with impressions of prior studies. Comparison shows lungs clear: no change."
    assert (select_text(text).text, select_text(text).part) == (text, "whole")


# ---- A site's own ---------------------------------------------------------------------------------------------------


def written(tmp_path, toml):
    path = tmp_path / "headings.toml"
    path.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return path


def test_a_site_names_its_own_headings(tmp_path):
    path = written(
        tmp_path,
        'findings = ["Bildbeschreibung", "What we see"]\nimpression = ["Bottom line"]\nclinical = ["Zuweisung"]\n'
        'both = ["Observaties"]\nstudy = ["Discussion"]\nnone = ["comment"]\n',
    )
    headings = read_headings(path)
    text = "Zuweisung: Husten.\nWHAT-WE-SEE: Edema.\nbottom line: Failure.\nDiscussion: Long."
    assert embed_text(text, headings=headings) == "Edema. Failure."
    assert select_text(text.partition("Discussion")[0]).part == "whole"
    assert embed_text("FINDINGS: Edema.\nComment: Old.", headings=headings) == "Edema. Comment: Old."
    assert embed_text("Zuweisung: Husten.\nBildbeschreibun: Edema.", headings=headings) == "Edema."
    both = split_report("OBSERVATIES: Edema.", headings=headings)
    assert (both.findings, both.impression) == ("Edema.", "Edema.")


REFUSED = {
    'finding = ["a"]': r"unknown key finding; the nearest known one is findings",
    'findings = "Befund"': r"findings must be a list of names",
    "findings = [1]": r"findings must be a list of names",
    'findings = ["..."]': r"a heading has letters",
    'findings = ["A: b"]': r"no colon",
    f'findings = ["{"a" * 65}"]': r"at most 64",
    'findings = ["View"]\nstudy = ["VIEW"]': r"'VIEW' stands under findings and study",
    "findings = [": r"not valid TOML",
    b'findings = ["\xff"]': r"not UTF-8 at byte 13",
}


@pytest.mark.parametrize("toml", REFUSED)
def test_a_wrong_file_of_headings_is_refused(toml, tmp_path):
    path = written(tmp_path, toml)
    with pytest.raises(ConfigError, match=REFUSED[toml]) as refused:
        read_headings(path)
    assert str(path) in str(refused.value)


def test_a_missing_file_of_headings_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        read_headings(tmp_path / "nowhere.toml")


def test_the_summary_counts_what_was_taken(tmp_path):
    folder, index = tmp_path / "reports", tmp_path / "index"
    folder.mkdir()
    texts = {
        "a": "FINDINGS: Left effusion.", "b": "left effusion", "c": "INDICATION: Cough.", "d": "Gesehen: Left effusion.",
        "e": "",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    first = run_cli("embed-reports", folder, "--index", index, "--json", code=3)
    (summary,) = json_lines(first.stdout)
    assert summary["sections"] == {"recognized": 1, "whole": 2, "none": 2}
    assert (summary["embedded"], summary["failed"]) == (3, 2)
    assert sorted(failure["reason"] for failure in summary["failures"]) == ["empty", "no_section"]

    headings = written(tmp_path, 'findings = ["Gesehen"]')
    again = run_cli("embed-reports", folder, "--index", index, "--headings", headings, code=3)
    assert "sections recognized in 2 reports, 1 taken whole, 2 without text to embed" in again.stdout
    assert "1 reports embedded, 2 unchanged, 2 failed" in again.stdout


def test_a_wrong_file_of_headings_touches_no_index(tmp_path):
    (tmp_path / "a.txt").write_text("Edema.")
    headings = written(tmp_path, "findings = 1")
    done = run_cli("embed-reports", tmp_path, "--index", tmp_path / "index", "--headings", headings, code=1)
    assert "headings.toml: findings must be a list of names" in done.stderr
    assert not (tmp_path / "index").exists()


# ---- Texts that were made to take long ------------------------------------------------------------------------------

SIZE = 1_000_000

HOSTILE = {
    "spaces": lambda: " " * SIZE,
    "blank lines": lambda: "\n \n" * (SIZE // 3),
    "headings": lambda: "FINDINGS: a.\n" * 100_000,
    "headings in one line": lambda: "IMPRESSION: a. Comparison: b. " * 30_000,
    "headings without text": lambda: "FINDINGS " * 100_000,
    "colons": lambda: ":" * SIZE,
    "names of one text": lambda: "".join(f"Ab{number:x}: " for number in range(SIZE // 8)),
    "capitals": lambda: "A" * SIZE,
    "a sentence without an end": lambda: "FINDINGS: " + "ab " * (SIZE // 3),
    "preliminary reads": lambda: "WET READ\n" * (SIZE // 9),
    "addenda": lambda: "ADDENDUM by a\n" * (SIZE // 14),
    "tags": lambda: "<b " * (SIZE // 3),
    "commas": lambda: "," * SIZE,
    "tabs behind a heading": lambda: "FINDINGS" + "\t" * SIZE + "x",
    "brackets": lambda: "FINDINGS" + "(" * SIZE,
    "decoration": lambda: "*" * SIZE + "FINDINGS",
}


REFUSED_TEXTS = (
    "spaces",
    "blank lines",
    "colons",
    "preliminary reads",
    "commas",
    "decoration",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_the_work_grows_with_the_length_alone(kind):
    # Anything quadratic would not end: a million characters squared are hours.
    text = HOSTILE[kind]()
    try:
        chosen = select_text(text)
    except ReportError:
        chosen = None
    assert (chosen is None) == (kind in REFUSED_TEXTS)
