-- Does a sample name a stay that has no hourly series?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, stay_id FROM samples WHERE stay_id IS NOT NULL;

SELECT * FROM checked ANTI JOIN hourly USING (stay_id);
