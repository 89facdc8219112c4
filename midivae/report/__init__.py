"""Stage `report`: one offline page.

stage   The stage: reads all data folders and writes `data/report`.
"""
