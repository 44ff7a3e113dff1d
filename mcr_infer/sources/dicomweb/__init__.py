"""Radiographs of a PACS, over DICOMweb (PS3.18): found by QIDO-RS, fetched by WADO-RS as they are stored.

    address of the command line -> studies -> series -> instances -> bytes of one instance, in memory

Of what a server tells, identifiers are kept and nothing else. What was searched for stays out of paths and errors, as it can
name a patient. dicomweb-client and requests are imported when the first address is met.
"""
