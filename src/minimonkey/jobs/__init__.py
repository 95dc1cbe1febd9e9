"""Records in, records out: many pictures asked, in order, with what fails written down, and gone on with after a kill.

sources.py: records --> job.py: windows of them --> answers.py, here or in processes.py or ray_data.py
                                `--> journal.py: rows as they come --> tables.py: JSONL, CSV, Parquet
"""
