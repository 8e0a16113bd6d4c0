-- Does a sample have more radiology reports than the setting `notes.reports` allows?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, count(*) AS reports FROM sample_notes GROUP BY task, sample_id;

SELECT * FROM checked WHERE reports > (SELECT setting::INT FROM options WHERE name = 'notes.reports');
