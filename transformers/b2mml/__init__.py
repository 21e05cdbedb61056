"""B2MML (ISA-95 as XML): read in the versions V0401 to V0701, written as V0701.

Documents are read into dicts with V0701's element names, whatever the version said. The Business To Manufacturing
Markup Language (B2MML) is used courtesy of MESA International.
"""
