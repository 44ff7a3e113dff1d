"""Headings of radiology reports by what stands below them, and words by which a sentence about the image is known.

English, French, German, Spanish, Portuguese, Italian and Dutch. Headings are compared without case, accents and hyphens
(`headings.py`), in one or two words joined by `and`, `/` or `&`.
"""

import re

NAMES = {
    "findings": (
        "finding, findings, observation, observations, comment, comments, description, discussion, result, results,"
        "constatation, constatations, résultat, résultats, résultat de l'examen, résultats de l'examen, "
        "Befund, Befunde, Befundung, Röntgenbefund, Thoraxbefund, Bildbefund, "
        "hallazgo, hallazgos, hallazgos radiológicos, descripción, resultado, resultados, "
        "achado, achados, achados radiológicos, análise, descrição, "
        "reperto, reperti, descrizione, risultato, risultati, "
        "bevinding, bevindingen, beschrijving, bespreking"
    ),
    "impression": (
        "impression, impressions, conclusion, conclusions, opinion, summary, interpretation, assessment, "
        "synthèse, au total, en conclusion, interprétation, "
        "Beurteilung, Zusammenfassung, Zusammenfassende Beurteilung, Fazit, Ergebnis, Interpretation, "
        "impresión, impresión diagnóstica, conclusión, conclusiones, opinión, juicio diagnóstico, interpretación, "
        "impressão, impressão diagnóstica, conclusão, conclusões, opinião, parecer, interpretação, "
        "impressione, impressione diagnostica, conclusione, conclusioni, giudizio, giudizio diagnostico, in conclusione, "
        "conclusie, conclusies, beoordeling, impressie, samenvatting, interpretatie"
    ),
    "addendum": (
        "addendum, addenda, final addendum, report addendum, addendum report, late addendum, amendment, amended report, "
        "correction, corrected report, supplement, supplementary report, supplemental report, "
        "additif, complément, Nachtrag, Ergänzung, Befundergänzung, Nachbefundung, "
        "adenda, adendum, ampliación, adendo, aditamento, integrazione, integrazione al referto, aanvulling"
    ),
    "organ": (
        "lung, lungs, lung parenchyma, pulmonary parenchyma, lung fields, parenchyma, airway, airways, trachea, "
        "pleura, pleural space, pleural spaces, heart, heart size, cardiac, cardiac silhouette, heart size and mediastinum, "
        "cardiomediastinal silhouette, cardiomediastinal contour, cardiomediastinal contours, cardiomediastinum, "
        "mediastinum, mediastinal contour, mediastinal contours, hilum, hila, hilar regions, aorta, great vessels, "
        "vasculature, pulmonary vasculature, pulmonary vascularity, pulmonary vessels, "
        "bone, bones, bony structures, bony thorax, osseous structures, skeleton, skeletal structures, musculoskeletal, "
        "spine, ribs, soft tissue, soft tissues, chest wall, diaphragm, diaphragms, hemidiaphragms, upper abdomen, abdomen, "
        "line, lines, tube, tubes, catheters, drains, devices, medical devices, support device, support devices, "
        "support apparatus, hardware, "
        "poumon, poumons, parenchyme, parenchyme pulmonaire, plèvre, plèvres, cœur, médiastin, silhouette cardiaque, "
        "silhouette cardio-médiastinale, hiles, os, squelette, cadre osseux, coupoles, parties molles, matériel, "
        "Lunge, Lungen, Herz, Knochen, Skelett, knöcherner Thorax, Zwerchfell, Weichteile, Hili, Fremdmaterial, "
        "pulmón, pulmones, parénquima, parénquima pulmonar, corazón, silueta cardíaca, mediastino, hilios, huesos, "
        "estructuras óseas, diafragma, partes blandas, dispositivos, "
        "pulmão, pulmões, campos pulmonares, coração, silhueta cardíaca, área cardíaca, hilos, ossos, arcabouço ósseo, "
        "partes moles, polmone, polmoni, cuore, immagine cardiaca, ili, ossa, scheletro, diaframma, parti molli, "
        "long, longen, longvelden, hart, botten, skelet, middenrif, weke delen, lijnen"
    ),
    # Their first paragraph is about the patient; prose that follows it without a heading describes the image.
    "clinical": (
        "indication, indications, clinical indication, clinical indications, history, clinical history, patient history, "
        "clinical information, clinical data, clinical details, clinical statement, clinical context, clinical question, "
        "clinical background, clinical notes, clinical, relevant history, "
        "medical history, past medical history, pmh, hpi, history of present illness, surgical history, "
        "chief complaint, presenting complaint, symptoms, signs and symptoms, reason, reason for visit, "
        "reason for referral, "
        "reason for exam, reason for this exam, reason for the exam, reason for examination, reason for this examination, "
        "reason for the examination, reason for study, reason for this study, reason for the study, reason for consult, "
        "reason for this consult, reason for the consult, reason for consultation, admitting diagnosis, clinical diagnosis, "
        "renseignements cliniques, informations cliniques, contexte clinique, histoire clinique, motif, "
        "motif de l'examen, antécédents, données cliniques, indication clinique, question posée, clinique, "
        "Indikation, Indikationen, rechtfertigende Indikation, klinische Angaben, klinische Angabe, klinische Information, "
        "klinische Informationen, Fragestellung, klinische Fragestellung, klinische Angaben und Fragestellung, Anamnese, "
        "Klinik, klinische Diagnose, Vorgeschichte, "
        "indicación, indicaciones, motivo, motivo de consulta, motivo del estudio, motivo de la exploración, "
        "datos clínicos, "
        "historia clínica, información clínica, antecedentes, diagnóstico clínico, juicio clínico, sospecha diagnóstica, "
        "indicação, indicações, indicação clínica, motivo do exame, história clínica, dados clínicos, informação clínica, "
        "informações clínicas, hipótese diagnóstica, suspeita clínica, "
        "indicazione, indicazioni, indicazione clinica, quesito, quesito clinico, quesito diagnostico, notizie cliniche, "
        "dati clinici, anamnesi, motivo dell'esame, sospetto diagnostico, inquadramento clinico, "
        "indicatie, indicaties, klinische gegevens, klinische vraagstelling, vraagstelling, voorgeschiedenis, "
        "reden van onderzoek, medische gegevens, klinische informatie, klinische vraag"
    ),
    # Likewise about the study: how it was taken, and what it was compared with.
    "study": (
        "exam, exams, examination, examinations, type of exam, type of examination, exam type, study, studies, procedure, "
        "procedures, technique, techniques, view, views, number of views, projection, projections, protocol, comparison, "
        "comparisons, comparison study, comparison studies, comparison exam, comparison examination, prior, priors, "
        "prior study, prior studies, prior exam, previous study, previous studies, previous exam, contrast, dose, "
        "radiation dose, date of exam, exam date, study date, date of study, modality, "
        "examen, examens, protocole, comparaison, comparaisons, examen comparatif, examens comparatifs, examens antérieurs, "
        "incidence, incidences, "
        "Technik, Untersuchung, Untersuchungen, Untersuchungstechnik, Methode, Methodik, Aufnahmetechnik, Vergleich, "
        "zum Vergleich, Voruntersuchung, Voruntersuchungen, Vergleichsuntersuchung, Voraufnahme, Voraufnahmen, "
        "Strahlendosis, "
        "técnica, comparación, estudio, estudios, estudio previo, estudios previos, exploración, procedimiento, dosis, "
        "comparação, exame, exames, exames anteriores, exame anterior, estudos anteriores, incidências, procedimento, "
        "tecnica, tecnica di esame, tecnica d'esame, confronto, esame, esami, esame precedente, esami precedenti, metodica, "
        "proiezioni, precedenti, "
        "techniek, vergelijking, vergeleken met, onderzoek, onderzoeken, voorgaand onderzoek, eerder onderzoek, "
        "vergelijkend onderzoek, opnametechniek, verrichting"
    ),
    # What was recommended, to whom it was told, who signed: no word on this image.
    "administrative": (
        "recommendation, recommendations, notification, notifications, communication, communications, critical result, "
        "critical results, critical results communication, attestation, attending attestation, "
        "teaching physician attestation, "
        "signed, signed by, electronically signed, electronically signed by, signature, dictated, dictated by, transcribed, "
        "transcribed by, transcriptionist, reviewed by, read by, reported by, interpreted by, attending, "
        "attending radiologist, attending physician, radiologist, resident, cc, patient, patient name, name, "
        "patient id, mrn, "
        "date of birth, dob, age, sex, accession, accession number, referring physician, ordering physician, disclaimer, "
        "recommandation, recommandations, signé, signé par, médecin, "
        "Empfehlung, Empfehlungen, Procedere, Unterschrift, Patientin, Geburtsdatum, Oberarzt, Assistenzarzt, "
        "recomendación, recomendaciones, firmado, firmado por, firma, médico, paciente, fecha de nacimiento, "
        "recomendação, recomendações, assinado, assinado por, assinatura, data de nascimento, "
        "raccomandazione, raccomandazioni, firmato, firmato da, medico, paziente, data di nascita, "
        "aanbeveling, aanbevelingen, advies, ondertekend, ondertekend door, radioloog, patiënt, geboortedatum"
    ),
    # A reading that a final one replaces.
    "preliminary": (
        "wet read, preliminary report, preliminary read, preliminary interpretation, preliminary impression, "
        "preliminary findings, preliminary result, prelim, vorläufiger Befund, informe preliminar, laudo preliminar, "
        "compte rendu provisoire, referto preliminare, voorlopig verslag"
    ),
    # The name of the document, or an end mark: what follows is read as if there were no heading.
    "title": (
        "report, final report, radiology report, x-ray report, chest x-ray report, original report, "
        "end of report, end of impression, end of findings, end of addendum, end of final report, "
        "compte rendu, compte-rendu, rapport, Bericht, Befundbericht, informe, informe radiológico, relatório, laudo, "
        "referto, verslag, radiologisch verslag"
    ),
}  # fmt: skip

MODIFIERS = frozenset(
    (
        "chest", "thorax", "clinical", "radiographic", "radiological", "radiology", "imaging", "xray", "cxr", "final",
        "overall", "diagnostic", "additional", "other", "key", "main", "pertinent", "relevant", "significant", "incidental",
        "major", "general", "critical", "positive", "negative", "abnormal", "new", "acute", "the",
    )
)  # fmt: skip
"""Words that may stand before a name of findings or impression without changing its kind."""

UNMISTAKABLE = frozenset(
    (
        "findings", "impression", "impressions", "conclusion", "conclusions", "addendum", "resultats", "befund", "befunde",
        "beurteilung", "hallazgos", "impresion", "conclusiones", "achados", "impressao", "conclusao", "reperti",
        "conclusione", "conclusioni", "bevindingen", "conclusie", "nachtrag",
    )
)  # fmt: skip
"""Names that are headings before a colon even where no sentence ended, without case and accents."""

CONNECTOR = re.compile(r" *[/&+,] *| +(?:and|und|et|y|e|ed|en|mit|with) +")

SIGNATURE = re.compile(
    r"(?:electronically signed|digitally signed|dictated by|signed by|reviewed by|transcribed by|"
    r"i have (?:personally )?reviewed the|elektronisch signiert|mit freundlichen gr(?:üßen|uessen)|"
    r"firmado por|assinado por|firmato da|signé par|ondertekend door)\b",
    re.IGNORECASE,
)
"""How a signature begins that needs no colon."""

# Stems, without accents. They decide on sentences below a heading about something else, and on nothing below findings.
FINDING = re.compile(
    r"lung|pulm|pneum|neumo|pleur|plevr|effusion|opaci|consolid|atelect|infiltrat|airspace|air space|edema|oedem|odem\b|"
    r"nodul|"
    r"lesion|granulom|emphysem|enfisem|hyperinfl|hypoinfl|hyperexp|fibros|fibrot|interstiti|bronch|cavit|"
    r"heart|cardi|mediasti|aort|vascul|congesti|silhouette|costophren|diaphragm|diafragm|zwerchfell|"
    r"fractur|spondyl|osseous|skelet|degenerat|scolio|kypho|clavic|catheter|pacemaker|picc\b|sternotomy|"
    r"calcif|thicken|enlarge|normal|unremark|unchang|trachea|"
    r"\b(?:mass(?:es)?|scar\w*|hil(?:um|ar|a)|ribs?|spine|spinal|bony|bones?|stern\w*|tubes?|pacer|leads?|port-?a\w*|clips?|"
    r"clear|stable|disease|abnormal\w*|line|lines)\b|"
    r"poumon|epanchement|coeur|foyer|erguss|herz|verschatt|stauung|\b(?:cotes?|rippen?)\b|"
    r"derrame|corazon|costilla|opacidad|coracao|costela|versament|cuore|polmon|addensament|"
    r"\b(?:coste|hart|harts\w*|longen|longveld\w*|vocht|ribben|verdichting\w*|afwijking\w*)\b|pleuravocht",
    re.IGNORECASE,
)
STATEMENT = re.compile(
    r"\b(?:is|are|was|were|has|have|had|no|not|there|new|shows?|demonstrates?|remains?|appears?|seen|noted|again|interval|"
    r"unchanged|stable|increased|decreased|improved|worsened|larger|smaller|without|persist\w*|consistent|compatible|"
    r"est|sont|pas|sans|aucun\w*|ist|sind|kein\w*|nicht|ohne|es|son|hay|sin|nao|sem|ha|sono|non|nessun\w*|senza|si|geen|"
    r"zijn|niet|zonder)\b",
    re.IGNORECASE,
)
ABOUT_STUDY = re.compile(
    r"\b(?:views?|radiograph\w*|films?|x-?rays?|images?|imaging|obtained|performed|acquired|technique|compar\w*|prior|"
    r"priors|previous|dated|available|ct|mri|contrast|dose|msv|dictat\w*|portable|upright|supine|projections?|exam\w*|"
    r"stud(?:y|ies)|aufnahme\w*|vor\w*aufnahme|cliche\w*|incidence\w*|radiografia\w*|proiezion\w*|opname\w*)\b",
    re.IGNORECASE,
)
ABOUT_PATIENT = re.compile(
    r"\b(?:rule out|r/o|evaluat\w*|assess\w*|eval|question of|concern\w*|suspect\w*|please|history|hx|s/p|status post|"
    r"presents|presented|presenting|year[- ]old|y/?o|yo|pain|cough\w*|fever\w*|dyspnea|shortness|sob|symptom\w*|check|"
    r"exclude|ausschluss|verdacht|z\.? ?n|bitte|eliminer|recherche|suspicion|"
    r"descartar|sospecha|excluir|suspeita|escludere|sospett\w*|verdenking|uitsluiten)\b",
    re.IGNORECASE,
)
ABOUT_FOLLOW_UP = re.compile(
    r"\b(?:recommend\w*|suggest\w*|advis\w*|follow-? ?up|correlat\w*|consider|should|ct|mri|telephon\w*|phone|paged?|"
    r"discuss\w*|"
    r"communicat\w*|notif\w*|convey\w*|relay\w*|informed|dr|doctor|agree|attest\w*|reviewed|signed|dictat\w*)\b",
    re.IGNORECASE,
)
COMMUNICATED = re.compile(
    r"^(?:these |the |this |all |above |critical |important |final |preliminary |updated |addended )*"
    r"(?:findings?|results?|impressions?|reports?|case|stud(?:y|ies)|images?|information|addendum|dr)\b[^,]{0,60}?"
    r"\b(?:discussed|communicated|conveyed|relayed|telephoned|phoned|called|paged|e-?mailed|notified|given|transmitted)\b"
    r"(?!.*\b(?:who|which|that|there|and)\b)",
    re.IGNORECASE,
)
"""A sentence of an addendum that says whom the report was told to, and nothing else."""
