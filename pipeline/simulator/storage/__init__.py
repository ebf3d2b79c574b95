"""What is uploaded to the simulator, kept in memory, without HTTP.

files      the Files API: documents that are parsed for a while, quota, ids
documents  the text of a stored document, by its format
oss        temporary uploads: policies, objects bound to a model and a time
endpoints  the HTTP side of all three
"""
