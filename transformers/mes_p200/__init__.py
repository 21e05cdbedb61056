"""MES P200: publishes JSON of canonical shape with words of its own, and times without an offset.

It takes canonical releases as they are, so nothing is transformed towards it.
"""
